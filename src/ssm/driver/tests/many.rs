//! Thousands of resumes of one session, after which it is as large as before.

use tokio::runtime::Handle;

use super::*;

/// What this process holds, where it can be told.
#[derive(Debug, Clone, Copy)]
struct Holdings {
    tasks: usize,
    file_descriptors: usize,
    resident_bytes: usize,
}

impl Holdings {
    fn now() -> Self {
        let pages: usize = std::fs::read_to_string("/proc/self/statm")
            .ok()
            .and_then(|text| text.split(' ').nth(1)?.parse().ok())
            .unwrap_or(0);
        Self {
            tasks: Handle::current().metrics().num_alive_tasks(),
            file_descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            resident_bytes: pages * 4096,
        }
    }
}

/// Hundreds; with `SSMSHIM_FULL=1` ten thousand, and memory and descriptors are counted too. Those are the whole
/// process's, so nothing else is to run in it: `SSMSHIM_FULL=1 cargo test --lib resumes_leave_nothing_behind`.
#[tokio::test]
async fn resumes_leave_nothing_behind() {
    match std::env::var_os("SSMSHIM_FULL") {
        Some(_) => live_through(10_000, true).await,
        None => live_through(300, false).await,
    }
}

/// Echoes over sockets that each live for a few messages; `is_alone` in the process.
async fn live_through(resumes: u32, is_alone: bool) {
    let service = Service::start(Faults {
        cut_each_after: Some(10),
        cut: Cut::Reset,
        ..Faults::default()
    })
    .await;
    let surroundings = Surroundings {
        longest: Duration::from_millis(5),
        ..surroundings()
    };
    let (session, mut stream) = service.start_in(surroundings, options()).await;
    let warm = resumes / 4;
    let mut before = None;
    let mut sent = 0_u64;
    while session.status().resumes < resumes {
        if before.is_none() && session.status().resumes >= warm {
            before = Some(Holdings::now());
        }
        let text = sent.to_be_bytes();
        within(stream.write_all(&text)).await.unwrap();
        let mut back = [0; 8];
        within(stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(back, text, "lost or doubled");
        sent += 1;
        // What the service keeps of each call and socket is not what is measured.
        let mut state = service.state.lock().unwrap();
        state.calls.clear();
        state.opens.truncate(1);
        state.has_authorization.clear();
    }
    let (before, after) = (before.expect("warm by now"), Holdings::now());
    assert!(after.tasks <= before.tasks + 10, "{before:?} {after:?}");
    if is_alone {
        assert!(
            after.file_descriptors <= before.file_descriptors + 10,
            "{before:?} {after:?}"
        );
        assert!(
            after.resident_bytes <= before.resident_bytes + (8 << 20),
            "{before:?} {after:?}"
        );
    }
    within(session.terminate()).await;
}
