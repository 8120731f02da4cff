//! Window credit that is held back: how a relay bounds its queues without ceasing to read.

/// How much of one direction a relay is willing to hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Shared by all channels of one local connection, each direction apart.
    pub connection_bytes: u32,
    /// A channel gets this much however many there are, so that each of them moves.
    pub channel_min_bytes: u32,
    /// A channel gets no more than this even when it is alone.
    pub channel_max_bytes: u32,
}

impl Default for Limits {
    /// 2 MiB alone, as an OpenSSH client grants itself; 64 KiB, two packets, at the least.
    fn default() -> Self {
        Self {
            connection_bytes: 2 << 20,
            channel_min_bytes: 64 << 10,
            channel_max_bytes: 2 << 20,
        }
    }
}

impl Limits {
    /// The share of one among `channels` channels.
    pub(super) fn share(self, channels: usize) -> u32 {
        let channels = u32::try_from(channels).unwrap_or(u32::MAX).max(1);
        (self.connection_bytes / channels).clamp(self.channel_min_bytes, self.channel_max_bytes)
    }
}

/// The account of one direction of one channel, in bytes since it was opened.
///
/// The receiver grants; what is passed on to the sender never runs more than a limit ahead of what
/// the receiver's connection has taken: `passed <= min(granted, forwarded + limit)`. So at most the limit
/// is ever queued here, and nobody has to stop reading to keep it so. A sender that does not wait for its
/// window has the same again: what to make of that is for the receiver to say, as it would without us (sshd
/// takes the input of a command that comes with the request to run it, which is before it has granted any).
#[derive(Debug, Clone, Copy)]
pub(super) struct Credit {
    granted: u64,
    passed: u64,
    received: u64,
    forwarded: u64,
}

/// The sender sent far more than its window allowed (RFC 4254 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overrun;

/// The receiver granted a window of more than 2^32 - 1 bytes (RFC 4254 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overflow;

impl Credit {
    /// Opens the account with the receiver's initial window, of which `limit` is passed on.
    pub(super) fn new(initial_window: u32, limit: u32) -> Self {
        Self {
            granted: initial_window.into(),
            passed: initial_window.min(limit).into(),
            received: 0,
            forwarded: 0,
        }
    }

    /// The initial window that the sender is to see. Meaningful before anything else has happened.
    pub(super) fn initial_window(&self) -> u32 {
        u32::try_from(self.passed).unwrap_or(u32::MAX)
    }

    /// The receiver adds `bytes` to the window; returns what to pass on now, zero for nothing.
    pub(super) fn grant(&mut self, bytes: u32, limit: u32) -> Result<u32, Overflow> {
        self.granted += u64::from(bytes);
        if self.granted.saturating_sub(self.received) > u64::from(u32::MAX) {
            return Err(Overflow);
        }
        Ok(self.pass(limit))
    }

    /// `bytes` have come from the sender.
    pub(super) fn receive(&mut self, bytes: u32, limit: u32) -> Result<(), Overrun> {
        self.received += u64::from(bytes);
        if self.received > self.passed + u64::from(limit) {
            return Err(Overrun);
        }
        Ok(())
    }

    /// `bytes` have left for the receiver; returns what to pass on now, zero for nothing.
    pub(super) fn forward(&mut self, bytes: u32, limit: u32) -> u32 {
        self.forwarded += u64::from(bytes);
        self.pass(limit)
    }

    /// Passes on what may be passed, in pieces of an eighth of the limit unless it is all there is:
    /// an adjustment for every packet would cost as many messages as the data.
    fn pass(&mut self, limit: u32) -> u32 {
        let target = self.granted.min(self.forwarded + u64::from(limit));
        let due = target.saturating_sub(self.passed);
        if due == 0 || (target < self.granted && due < u64::from(limit / 8)) {
            return 0;
        }
        self.passed = target;
        u32::try_from(due).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Credit {
        /// Bytes that have come and not left.
        fn queued(&self) -> u64 {
            self.received - self.forwarded
        }
    }

    #[test]
    fn a_large_window_is_held_back_and_released_as_it_drains() {
        let mut credit = Credit::new(u32::MAX, 800);
        assert_eq!(credit.initial_window(), 800);
        credit.receive(800, 800).unwrap();
        assert_eq!(credit.forward(99, 800), 0);
        assert_eq!(credit.forward(1, 800), 100);
        assert_eq!(credit.queued(), 700);
    }

    #[test]
    fn a_sender_may_run_ahead_of_its_window_for_as_much_as_the_limit() {
        let mut credit = Credit::new(0, 800);
        assert_eq!(credit.receive(800, 800), Ok(()));
        assert_eq!(credit.receive(1, 800), Err(Overrun));
    }

    #[test]
    fn a_window_has_32_bits() {
        let mut credit = Credit::new(u32::MAX, 800);
        assert_eq!(credit.grant(1, 800), Err(Overflow));
        let mut credit = Credit::new(u32::MAX, 800);
        credit.receive(5, 800).unwrap();
        assert_eq!(credit.grant(5, 800), Ok(0));
        assert_eq!(credit.grant(1, 800), Err(Overflow));
    }

    #[test]
    fn what_the_receiver_grants_within_the_limit_passes_at_once() {
        let mut credit = Credit::new(10, 800);
        assert_eq!(credit.grant(1, 800), Ok(1));
        assert_eq!(credit.grant(5000, 800), Ok(789));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// A sender that uses all it is given and a receiver that grants what it gets, in any order and
        /// under any limit: the queue stays within the largest limit and never comes to a standstill.
        #[test]
        fn never_over_the_limit_and_never_stuck(
            initial in 0_u32..5000,
            steps in proptest::collection::vec((0_u8..3, 1_u32..3000, 64_u32..1024), 1..200),
        ) {
            let mut credit = Credit::new(initial, 1024);
            let mut sender_window = u64::from(credit.initial_window());
            let mut receiver_window = u64::from(initial);
            for (action, amount, limit) in steps {
                match action {
                    0 => {
                        let sent = u64::from(amount).min(sender_window);
                        sender_window -= sent;
                        prop_assert_eq!(credit.receive(sent as u32, limit), Ok(()));
                    }
                    1 => {
                        let sent = u64::from(amount).min(credit.queued());
                        prop_assert!(sent <= receiver_window, "forwarded beyond the receiver's window");
                        receiver_window -= sent;
                        sender_window += u64::from(credit.forward(sent as u32, limit));
                    }
                    _ => {
                        receiver_window += u64::from(amount);
                        let passed = credit.grant(amount, limit);
                        sender_window += u64::from(passed.unwrap());
                    }
                }
                prop_assert!(credit.queued() + sender_window <= 1024);
            }
            let rest = credit.queued() as u32;
            receiver_window -= u64::from(rest);
            sender_window += u64::from(credit.forward(rest, 1024));
            prop_assert!(sender_window > 0 || receiver_window == 0, "stuck with window left");
        }
    }
}
