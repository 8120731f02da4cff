//! The driver over a link made of two queues.

use std::collections::VecDeque;
use std::task::Waker;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::account::Account;
use crate::ssh::wire::{Reader, WriteExt, msg};
use crate::sshd::channel::{MAX_PACKET, Stream, WINDOW};

/// What the client has sent and what it would receive.
#[derive(Default)]
struct Queues {
    incoming: VecDeque<Bytes>,
    sent: Vec<Vec<u8>>,
    /// Messages that the link still takes.
    room: usize,
    rejected: usize,
}

impl Link for Queues {
    type Error = std::convert::Infallible;

    fn poll_recv(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<Option<Bytes>, Self::Error>> {
        self.incoming
            .pop_front()
            .map_or(Poll::Pending, |message| Poll::Ready(Ok(Some(message))))
    }

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        if self.room > 0 {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn start_send(&mut self, message: &[u8]) -> Result<(), Self::Error> {
        self.room -= 1;
        self.sent.push(message.to_vec());
        Ok(())
    }

    fn poll_flush(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn reject_last(&mut self) -> Result<(), Self::Error> {
        self.rejected += 1;
        Ok(())
    }
}

fn driver(room: usize) -> Driver<Queues> {
    let address = ([127, 0, 0, 1], 22).into();
    let context = Context {
        account: Arc::new(Account::current()),
        environment: Arc::default(),
        peer: address,
        local: address,
        tasks: TaskTracker::new(),
        shutdown: CancellationToken::new(),
    };
    Driver::new(
        Queues {
            room,
            ..Queues::default()
        },
        Arc::new(context),
    )
}

fn poll(driver: &mut Driver<Queues>) -> Poll<Result<(), Failure<std::convert::Infallible>>> {
    driver.poll(&mut TaskContext::from_waker(Waker::noop()))
}

/// Opens a session, with a pipe that the test holds in its task's place.
fn channel(driver: &mut Driver<Queues>, peer: u32) -> (ChannelId, Pipe) {
    let mut message = Vec::new();
    message
        .put_byte(msg::CHANNEL_OPEN)
        .put_string("session")
        .put_uint32(peer);
    message.put_uint32(1 << 30).put_uint32(1 << 30);
    driver.core.handle_message(&message.into()).unwrap();
    let Some(Event::Opening(id, _)) = driver.core.poll_event() else {
        panic!()
    };
    driver.core.confirm(id);
    let pipe = driver.serve(id);
    (id, pipe)
}

async fn send(pipe: &Pipe, length: usize) {
    pipe.send(Stream::Stdout, vec![0; length].into())
        .await
        .unwrap();
}

#[tokio::test]
async fn channels_take_turns_and_control_goes_first() {
    let mut driver = driver(0);
    let (_first, one) = channel(&mut driver, 1);
    let (_second, two) = channel(&mut driver, 2);
    send(&one, 100_000).await;
    send(&two, 100_000).await;
    assert!(poll(&mut driver).is_pending());
    driver
        .link
        .incoming
        .push_back(Bytes::from_static(b"\x50\x00\x00\x00\x01x\x01"));
    driver.link.incoming.push_back(Bytes::from_static(b"\xc8"));
    driver.link.room = 100;
    assert!(poll(&mut driver).is_pending());
    let order: Vec<(u8, Option<u8>)> = driver
        .link
        .sent
        .iter()
        .map(|message| (message[0], message.get(4).copied()))
        .collect();
    let data = |peer| (msg::CHANNEL_DATA, Some(peer));
    assert_eq!(
        order[..3],
        [(91, Some(1)), (91, Some(2)), (msg::REQUEST_FAILURE, None)]
    );
    assert_eq!(
        order[3..],
        [
            data(1),
            data(2),
            data(1),
            data(2),
            data(1),
            data(2),
            data(1),
            data(2)
        ]
    );
    assert_eq!(driver.link.rejected, 1);
}

#[tokio::test]
async fn eof_and_close_follow_the_last_data() {
    let mut driver = driver(2);
    let (_, pipe) = channel(&mut driver, 1);
    send(&pipe, 3 * MAX_PACKET as usize).await;
    pipe.finish();
    drop(pipe);
    assert!(poll(&mut driver).is_pending());
    assert_eq!(driver.link.sent.len(), 2);
    driver.link.room = 10;
    assert!(poll(&mut driver).is_pending());
    let numbers: Vec<u8> = driver.link.sent.iter().map(|message| message[0]).collect();
    assert_eq!(numbers, [91, 94, 94, 94, 96, 97]);
    assert!(driver.channels.is_empty());
}

#[tokio::test]
async fn a_slow_task_is_given_no_more_than_its_window() {
    let mut driver = driver(100);
    let (id, pipe) = channel(&mut driver, 1);
    let mut message = Vec::new();
    message
        .put_byte(msg::CHANNEL_DATA)
        .put_raw(&[0; 4])
        .put_string(vec![0; MAX_PACKET as usize]);
    let message = Bytes::from(message);
    for _ in 0..WINDOW / MAX_PACKET {
        driver.link.incoming.push_back(message.clone());
    }
    assert!(poll(&mut driver).is_pending());
    let adjusts = |driver: &Driver<Queues>| {
        driver
            .link
            .sent
            .iter()
            .filter(|message| message[0] == 93)
            .count()
    };
    assert_eq!(adjusts(&driver), 0);
    // A chunk is consumed when the next is asked for: one more than half.
    for _ in 0..=WINDOW / MAX_PACKET / 2 {
        assert_eq!(pipe.next().await.unwrap().len(), MAX_PACKET as usize);
    }
    assert!(poll(&mut driver).is_pending());
    assert_eq!(adjusts(&driver), 1);
    let granted = Reader::new(&driver.link.sent.last().unwrap()[5..])
        .u32()
        .unwrap();
    assert_eq!(granted, WINDOW / 2);
    // Thrown away, the rest is granted too.
    pipe.discard();
    assert!(poll(&mut driver).is_pending());
    assert_eq!(adjusts(&driver), 2);
    assert!(driver.channels.contains_key(&id));
}

#[tokio::test]
async fn small_messages_are_copied_together() {
    let mut driver = driver(10);
    let (_, pipe) = channel(&mut driver, 1);
    for byte in 0..100 {
        driver
            .link
            .incoming
            .push_back(vec![94, 0, 0, 0, 0, 0, 0, 0, 1, byte].into());
    }
    assert!(poll(&mut driver).is_pending());
    assert_eq!(pipe.next().await.unwrap(), (0..100).collect::<Vec<u8>>());
}

#[tokio::test]
async fn who_reads_no_answers_is_cut_off() {
    let mut driver = driver(0);
    let request = Bytes::from_static(b"\x50\x00\x00\x00\x01x\x01");
    for _ in 0..=MAX_BACKLOG_BYTES {
        driver.link.incoming.push_back(request.clone());
    }
    assert!(matches!(
        poll(&mut driver),
        Poll::Ready(Err(Failure::Unread))
    ));
}

#[tokio::test]
async fn the_end_of_the_driver_is_told_to_the_tasks() {
    let mut driver = driver(0);
    let (_, pipe) = channel(&mut driver, 1);
    send(&pipe, 1 << 20).await;
    driver
        .link
        .incoming
        .push_back(Bytes::from_static(b"\x5e\0\0\0\0\0\0\0\x01z"));
    assert!(poll(&mut driver).is_pending());
    drop(driver);
    pipe.closed().await;
    assert!(
        pipe.send(Stream::Stdout, Bytes::from_static(b"x"))
            .await
            .is_err()
    );
    // What had come is not lost.
    assert_eq!(pipe.next().await.unwrap(), "z");
    assert_eq!(pipe.next().await, None);
}
