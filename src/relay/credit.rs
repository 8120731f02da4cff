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

    /// The same for a connection that may not have more than `bytes` under way.
    pub(super) fn within(self, bytes: u32) -> Self {
        Self {
            connection_bytes: self.connection_bytes.min(bytes),
            channel_min_bytes: self.channel_min_bytes.min(HALF_PACKET_BYTES),
            ..self
        }
    }
}

/// The least for each channel where little may be under way.
const HALF_PACKET_BYTES: u32 = 16 << 10;

/// The account of one direction of one channel, in bytes since it was opened.
///
/// The receiver grants; what is passed on to the sender never runs more than a limit ahead of what
/// the receiver's connection has taken: `passed <= min(granted, forwarded + limit)`. So at most the limit
/// is ever queued here, and nobody has to stop reading to keep it so. A sender that does not wait for its
/// window has the same again: what to make of that is for the receiver to say, as it would without us (sshd
/// takes the input of a command that comes with the request to run it, which is before it has granted any).
///
/// Of a wide window a little is kept in reserve, for what the relay has to say in the sender's place
/// ([`Credit::inject`]). The sender gets it last, when it has used up all the rest: a receiver that grants nothing
/// before its window is used to the last byte is not kept waiting. What was taken from it is made good by the
/// next adjustments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Credit {
    /// What the receiver takes from the sender, without the reserve.
    granted: u64,
    passed: u64,
    received: u64,
    forwarded: u64,
    reserve: u32,
    /// What the reserve is to be.
    reserve_full: u32,
}

/// What is kept in reserve of a window wider than any channel is held to: a few notices.
const RESERVE_BYTES: u32 = 1 << 10;

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
            reserve: 0,
            reserve_full: 0,
        }
    }

    /// [`Credit::new`] with a reserve, if the window is wider than `narrow` bytes: a narrow one is the sender's.
    pub(super) fn with_reserve(initial_window: u32, limit: u32, narrow: u32) -> Self {
        let reserve = if initial_window > narrow.max(RESERVE_BYTES) {
            RESERVE_BYTES
        } else {
            0
        };
        Self {
            reserve,
            reserve_full: reserve,
            ..Self::new(initial_window - reserve, limit)
        }
    }

    /// The initial window that the sender is to see. Meaningful before anything else has happened.
    pub(super) fn initial_window(&self) -> u32 {
        u32::try_from(self.passed).unwrap_or(u32::MAX)
    }

    /// The receiver adds `bytes` to the window; returns what to pass on now, zero for nothing.
    pub(super) fn grant(&mut self, bytes: u32, limit: u32) -> Result<u32, Overflow> {
        let refill = bytes.min(self.reserve_full - self.reserve);
        self.reserve += refill;
        self.granted += u64::from(bytes - refill);
        if self.window() > u64::from(u32::MAX) {
            return Err(Overflow);
        }
        Ok(self.pass(limit))
    }

    /// Takes `bytes` of the window for words that are not the sender's; false when it cannot spare them.
    pub(super) fn inject(&mut self, bytes: u32) -> bool {
        if u64::from(bytes) > self.window() {
            return false;
        }
        let withheld = self
            .granted
            .saturating_sub(self.passed.max(self.received))
            .min(bytes.into());
        let rest = u64::from(bytes) - withheld;
        if rest > u64::from(self.reserve) {
            return false;
        }
        self.granted -= withheld;
        self.reserve -= rest as u32;
        true
    }

    /// What the receiver would still take if the sender said nothing more, what is queued here left out.
    pub(super) fn window(&self) -> u64 {
        (self.granted + u64::from(self.reserve)).saturating_sub(self.received)
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
        if self.forwarded >= self.granted {
            self.granted += u64::from(std::mem::take(&mut self.reserve));
        }
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

    #[test]
    fn of_a_wide_window_a_little_is_in_reserve() {
        let mut credit = Credit::with_reserve(100_000, u32::MAX, 64 << 10);
        assert_eq!(credit.initial_window(), 100_000 - RESERVE_BYTES);
        assert!(credit.inject(RESERVE_BYTES));
        assert!(!credit.inject(1));
        assert_eq!(credit.window(), u64::from(100_000 - RESERVE_BYTES));
        assert_eq!(credit.grant(RESERVE_BYTES, u32::MAX), Ok(0));
        assert!(credit.inject(RESERVE_BYTES), "made good");

        let mut narrow = Credit::with_reserve(64 << 10, u32::MAX, 64 << 10);
        assert_eq!(narrow.initial_window(), 64 << 10);
        assert!(!narrow.inject(1));
    }

    #[test]
    fn the_reserve_goes_to_a_sender_that_has_used_everything_else() {
        let mut credit = Credit::with_reserve(100_000, u32::MAX, 64 << 10);
        let rest = credit.initial_window();
        credit.receive(rest, u32::MAX).unwrap();
        assert_eq!(credit.forward(rest - 1, u32::MAX), 0);
        assert_eq!(credit.forward(1, u32::MAX), RESERVE_BYTES);
        assert!(!credit.inject(1));
        // And is kept again once there is more.
        assert_eq!(credit.grant(50_000, u32::MAX), Ok(50_000 - RESERVE_BYTES));
    }

    #[test]
    fn what_the_sender_was_not_given_is_there_for_others() {
        let mut credit = Credit::new(1000, 800);
        assert!(credit.inject(200));
        assert!(!credit.inject(1));
        assert_eq!(credit.window(), 800);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// However much is said in the sender's place: nobody exceeds the window, and the sender is not stuck.
        #[test]
        fn injected_words_are_paid_for(
            steps in proptest::collection::vec((0_u8..4, 1_u32..3000), 1..200),
        ) {
            const LIMIT: u32 = 4096;
            let mut credit = Credit::with_reserve(5000, LIMIT, 4096);
            let mut sender_window = u64::from(credit.initial_window());
            let mut receiver_window = 5000_u64;
            for (action, amount) in steps {
                match action {
                    0 => {
                        let sent = u64::from(amount).min(sender_window);
                        sender_window -= sent;
                        prop_assert_eq!(credit.receive(sent as u32, LIMIT), Ok(()));
                    }
                    1 => {
                        let sent = u64::from(amount).min(credit.queued());
                        prop_assert!(sent <= receiver_window, "forwarded beyond the receiver's window");
                        receiver_window -= sent;
                        sender_window += u64::from(credit.forward(sent as u32, LIMIT));
                    }
                    2 if credit.inject(amount) => {
                        prop_assert!(u64::from(amount) <= receiver_window, "injected beyond the window");
                        receiver_window -= u64::from(amount);
                    }
                    2 => {}
                    _ => {
                        receiver_window += u64::from(amount);
                        sender_window += u64::from(credit.grant(amount, LIMIT).unwrap());
                    }
                }
                prop_assert!(credit.queued() + sender_window <= receiver_window);
            }
            let rest = credit.queued() as u32;
            receiver_window -= u64::from(rest);
            sender_window += u64::from(credit.forward(rest, LIMIT));
            prop_assert!(sender_window > 0 || receiver_window == 0, "stuck with window left");
        }

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
