//! How much is on its way at once, and how large: found out by trying, within bounds.

use std::time::Duration;

use tokio::time::Instant;

/// So many objects are on their way at most. Each holds a buffer of 8 MiB: it bounds the memory.
pub(super) const IN_FLIGHT_MAX: usize = 8;

/// Fewer gain nothing: while one is on its way another is built.
const IN_FLIGHT_MIN: usize = 2;

/// Where finding out begins.
const IN_FLIGHT_FIRST: usize = 4;

/// The largest object. Source: docs/architecture, "Snapshot: the format".
const OBJECT_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The smallest that is aimed at: below this a store's answer takes longer than the bytes.
const OBJECT_BYTES_MIN: u64 = 64 * 1024;

/// An object should take no longer than this to go up: it bounds what a deadline or a broken connection costs.
const OBJECT_TIME: Duration = Duration::from_secs(3);

/// With a deadline closer than this, the first objects are small until the link is known.
const SOON: Duration = Duration::from_secs(30);

/// Nothing is tried any more when less time is left than the quickest object took, or than this if that is less: a
/// store that was slow so far may have stumbled, and what is not tried is lost for certain.
const LEAST_MAX: Duration = Duration::from_millis(500);

/// Objects that were sent between two judgements.
const WINDOW: u32 = 8;

/// How the work in progress is bounded for those who ask for less than all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// So many objects are on their way at most; within 1 and a bound on memory.
    pub concurrency: usize,
    /// So many bytes a second are sent on average.
    pub bytes_per_second: Option<std::num::NonZeroU64>,
    /// Reading and hashing take what processor and disk time others leave.
    pub is_nice: bool,
}

impl Pace {
    /// As fast as the link takes it.
    pub const FULL: Self = Self { concurrency: IN_FLIGHT_MAX, bytes_per_second: None, is_nice: false };
    /// In the background of the work itself: two objects at once and 32 MiB a second.
    pub const BACKGROUND: Self =
        Self { concurrency: 2, bytes_per_second: std::num::NonZeroU64::new(32 * 1024 * 1024), is_nice: true };
}

/// The state of finding out.
#[derive(Debug)]
pub(super) struct Flow {
    pace: Pace,
    limit: usize,
    is_rising: bool,
    /// Bytes a second that one object gets, smoothed. Only what is large enough tells: the time of a tiny object is
    /// the store's answer, not the link's rate.
    each: Option<u64>,
    /// What an object of [`OBJECT_BYTES_MIN`] would have taken at the best.
    least: Option<Duration>,
    /// The largest object that took less than half of [`OBJECT_TIME`]: one of twice its size may be tried.
    quick: u64,
    window: (Instant, u64, u32),
    last: Option<u64>,
    /// With a rate: when the next bytes may go.
    free_at: Instant,
}

impl Flow {
    pub(super) fn new(pace: Pace) -> Self {
        let now = Instant::now();
        let limit = IN_FLIGHT_FIRST.min(pace.concurrency).max(1);
        Self {
            pace,
            limit,
            is_rising: true,
            each: None,
            least: None,
            quick: 0,
            window: (now, 0, 0),
            last: None,
            free_at: now,
        }
    }

    /// So many may be on their way now.
    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    /// How large the next object should be, with so much time left; `None` when even the smallest and luckiest would
    /// come too late. Until then something is tried: what is not tried is lost for certain.
    pub(super) fn target(&self, left: Option<Duration>) -> Option<u64> {
        let within = |rate: u64, time: Duration| {
            let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            rate.saturating_mul(millis) / 1000
        };
        let wanted = match self.each {
            Some(each) => within(each, OBJECT_TIME).max(self.quick * 2).clamp(1024 * 1024, OBJECT_BYTES_MAX),
            None if left.is_some_and(|left| left < SOON) => 1024 * 1024,
            None => OBJECT_BYTES_MAX,
        };
        match (left, self.each) {
            (Some(left), _) if left.is_zero() || self.least.is_some_and(|least| left < least) => None,
            // Two thirds of what the time allows: rates vary.
            (Some(left), Some(each)) => {
                let is_time_for_a_quick_one = left >= OBJECT_TIME / 2;
                let quick = if is_time_for_a_quick_one { self.quick } else { 0 };
                Some(wanted.min((within(each, left) / 3 * 2).max(quick).max(OBJECT_BYTES_MIN)))
            }
            (Some(_) | None, _) => Some(wanted),
        }
    }

    /// When the next object may be sent, by the rate that was asked for; `None`: now.
    pub(super) fn start(&self) -> Option<Instant> {
        self.pace.bytes_per_second?;
        (self.free_at > Instant::now()).then_some(self.free_at)
    }

    /// `bytes` were sent: the next must wait until the rate holds again.
    fn charge(&mut self, bytes: u64) {
        if let Some(rate) = self.pace.bytes_per_second {
            let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.get());
            let pause = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
            self.free_at = self.free_at.max(Instant::now()) + pause;
        }
    }

    /// An object of `bytes` went up in `time`, at the `attempts`th attempt.
    pub(super) fn sent(&mut self, bytes: u64, time: Duration, attempts: u32) {
        self.charge(bytes);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        let parts = u32::try_from(bytes / OBJECT_BYTES_MIN).unwrap_or(u32::MAX).max(1);
        self.least = Some(self.least.unwrap_or(LEAST_MAX).min(time / parts));
        // The time of several attempts is mostly pauses.
        if bytes >= OBJECT_BYTES_MIN && attempts == 1 {
            let rate = bytes.saturating_mul(1_000_000) / micros;
            self.each = Some(self.each.map_or(rate, |each| (each * 3 + rate) / 4));
        }
        if time < OBJECT_TIME / 2 {
            self.quick = self.quick.max(bytes);
        }
        if attempts > 1 {
            // The store is overloaded, or says so.
            self.limit = (self.limit / 2).max(IN_FLIGHT_MIN).min(self.pace.concurrency).max(1);
            self.window = (Instant::now(), 0, 0);
            self.last = None;
            return;
        }
        let (since, total, count) = self.window;
        self.window = (since, total + bytes, count + 1);
        if count + 1 < WINDOW {
            return;
        }
        let elapsed = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
        let together = (total + bytes).saturating_mul(1_000_000) / elapsed;
        // Up while it helps, down when it hurts; where it makes no difference, stay.
        match self.last {
            Some(last) if together < last - last / 8 => self.is_rising = !self.is_rising,
            Some(last) if together < last + last / 20 => {
                self.window = (Instant::now(), 0, 0);
                self.last = Some(last.max(together));
                return;
            }
            Some(_) | None => {}
        }
        let next = if self.is_rising { self.limit + 1 } else { self.limit - 1 };
        self.limit = next.clamp(IN_FLIGHT_MIN, IN_FLIGHT_MAX).min(self.pace.concurrency).max(1);
        self.last = Some(together);
        self.window = (Instant::now(), 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_link_that_gives_more_to_more_gets_more_and_errors_take_back() {
        let mut flow = Flow::new(Pace::FULL);
        for _ in 0..20 * WINDOW {
            let limit = u64::try_from(flow.limit()).expect("small");
            // Each object moves at the same speed however many there are.
            tokio::time::advance(Duration::from_millis(1000 / limit)).await;
            flow.sent(8 << 20, Duration::from_secs(1), 1);
        }
        assert_eq!(flow.limit(), IN_FLIGHT_MAX);
        flow.sent(8 << 20, Duration::from_secs(1), 3);
        assert_eq!(flow.limit(), IN_FLIGHT_MAX / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn objects_are_small_where_time_is_short() {
        let mut flow = Flow::new(Pace::FULL);
        assert_eq!(flow.target(None), Some(8 << 20));
        assert_eq!(flow.target(Some(Duration::from_secs(5))), Some(1 << 20));
        flow.sent(1 << 20, Duration::from_secs(1), 1);
        assert_eq!(flow.target(None), Some(3 << 20));
        flow.sent(2 << 20, Duration::from_millis(1_400), 1);
        assert_eq!(flow.target(None), Some(4 << 20), "most of the time was waiting");
        let mut flow = Flow::new(Pace::FULL);
        flow.sent(1 << 20, Duration::from_secs(1), 1);
        assert_eq!(flow.target(Some(Duration::from_millis(300))), Some(((1 << 20) * 300 / 1000) / 3 * 2));
        assert_eq!(flow.target(Some(Duration::from_millis(80))), Some(OBJECT_BYTES_MIN));
        assert_eq!(flow.target(Some(Duration::from_millis(30))), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tiny_object_or_a_repeated_one_tells_nothing_of_the_rate() {
        let mut flow = Flow::new(Pace::FULL);
        flow.sent(6, Duration::from_millis(50), 1);
        flow.sent(64 << 10, Duration::from_secs(9), 4);
        assert_eq!(flow.target(Some(Duration::from_secs(20))), Some(1 << 20), "all the rest is still tried");
        assert_eq!(flow.target(Some(Duration::from_millis(60))), Some(1 << 20));
        assert_eq!(flow.target(Some(Duration::from_millis(40))), None, "no answer came that quickly");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_stumbled_once_is_still_tried() {
        let mut flow = Flow::new(Pace::FULL);
        flow.sent(6, Duration::from_secs(7), 3);
        assert!(flow.target(Some(Duration::from_secs(4))).is_some(), "4 s are time for much");
        flow.sent(600, Duration::from_secs(5), 1);
        assert!(flow.target(Some(Duration::from_millis(600))).is_some());
        assert_eq!(flow.target(Some(Duration::from_millis(400))), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_holds_on_average() {
        let rate = std::num::NonZeroU64::new(1 << 20);
        let mut flow = Flow::new(Pace { bytes_per_second: rate, ..Pace::BACKGROUND });
        let start = Instant::now();
        assert_eq!(flow.start(), None);
        flow.charge(4 << 20);
        assert_eq!(flow.start(), Some(start + Duration::from_secs(4)));
        flow.charge(1 << 20);
        assert_eq!(flow.start(), Some(start + Duration::from_secs(5)));
    }
}
