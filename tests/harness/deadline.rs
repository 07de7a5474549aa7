//! Waiting without sleeping: a condition is asked again until it holds or a deadline passes.

use std::fmt::Debug;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take that has to happen. Generous: it is only reached when a test fails, and test machines are slow and shared.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks until there is an answer.
///
/// # Panics
/// When there is none within [`DEADLINE`]; the message names what was waited for.
pub async fn eventually<T, F, Fut>(what: &str, mut ask: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = within(what, ask()).await {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not so within {DEADLINE:?}");
        sleep(PAUSE).await;
    }
}

/// Waits for a future at most for [`DEADLINE`].
///
/// # Panics
/// When it takes longer.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match timeout(DEADLINE, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: took longer than {DEADLINE:?}"),
    }
}

/// [`within`] for what must also succeed.
///
/// # Panics
/// When it takes longer or fails.
pub async fn done<T, E: Debug>(what: &str, work: impl Future<Output = Result<T, E>>) -> T {
    match within(what, work).await {
        Ok(done) => done,
        Err(error) => panic!("{what}: {error:?}"),
    }
}
