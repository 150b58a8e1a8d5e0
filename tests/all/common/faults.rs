//! What goes wrong on a line between two devices, for tests of every protocol.
//!
//! A [`Plan`] says which [`Fault`] happens when; a [`Line`] is one direction, without a clock, for tests in virtual time; a
//! [`Faulty`] is both directions around a byte stream. All that is left to chance follows from the plan's seed.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use hhnet::units::Instant;
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64;

const MS: Duration = Duration::from_millis(1);
/// The end of a fault that lasts.
pub const FOREVER: Instant = Instant::from_nanos(u64::MAX);

/// What a line does to the bytes that are put into it. A chunk is what one write hands over, and what one read gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Each byte is lost with this chance, 0 to 1.
    Drop(f64),
    /// Each chunk arrives so much later, anywhere in the range; the order stays.
    Delay(Range<Duration>),
    /// Each byte has one of its bits turned over with this chance, 0 to 1.
    Corrupt(f64),
    /// After each byte the chunk ends with this chance, 0 to 1.
    Split(f64),
    /// What is sent within this time of the first byte arrives at its end, as one chunk.
    Merge(Duration),
    /// So many random bytes arrive every millisecond, besides what is sent. At 115,200 baud a line is full at 11.
    Flood(usize),
    /// What is sent is lost.
    Silence,
    /// The stream is over, and so is one that is opened meanwhile: reads give zero bytes, writes fail. A [`Line`] is silent.
    End,
}

/// Which faults happen when. Those of the same time come together.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    seed: u64,
    faults: Vec<(Range<Instant>, Fault)>,
}

impl Plan {
    /// A plan without a fault; what chance decides follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            faults: Vec::new(),
        }
    }

    /// The same, with one more fault for so long.
    pub fn with(mut self, during: Range<Instant>, fault: Fault) -> Self {
        self.faults.push((during, fault));
        self
    }

    /// Two to eight faults of every kind, each for at most half a second, at any time of `during`.
    pub fn random(seed: u64, during: Range<Instant>) -> Self {
        let mut random = Pcg64::seed_from_u64(seed);
        let mut plan = Self::new(seed);
        let length = during.end.since(during.start);
        for _ in 0..random.random_range(2..=8) {
            let begin = during.start + length.mul_f64(random.random());
            let end = begin + MS * random.random_range(1..500);
            let fault = Fault::random(&mut random);
            plan = plan.with(begin..end.min(during.end), fault);
        }
        plan
    }

    fn at(&self, now: Instant) -> impl Iterator<Item = &Fault> {
        let active = move |(during, _): &&(Range<Instant>, Fault)| during.contains(&now);
        self.faults.iter().filter(active).map(|(_, fault)| fault)
    }

    /// When garbage comes next, not before `earliest`, and how many bytes.
    fn next_garbage(&self, earliest: Instant) -> Option<(Instant, usize)> {
        let floods = self.faults.iter().filter_map(|(during, fault)| match fault {
            Fault::Flood(per_ms) => Some((during.start.max(earliest), during.end, *per_ms)),
            _ => None,
        });
        let floods = floods.filter(|(start, end, _)| start < end);
        floods.map(|(start, _, per_ms)| (start, per_ms)).min()
    }
}

impl Fault {
    fn random(random: &mut Pcg64) -> Self {
        let from = MS * random.random_range(0..50);
        match random.random_range(0..8) {
            0 => Self::Drop(random.random_range(0.0..0.02)),
            1 => Self::Delay(from..from + MS * random.random_range(1..100)),
            2 => Self::Corrupt(random.random_range(0.0..0.02)),
            3 => Self::Split(random.random_range(0.1..1.0)),
            4 => Self::Merge(MS * random.random_range(1..100)),
            5 => Self::Flood(random.random_range(1..12)),
            6 => Self::Silence,
            _ => Self::End,
        }
    }
}

/// One direction of a line. Chunks arrive when they are asked for and not before they are due.
#[derive(Clone, Debug)]
pub struct Line {
    plan: Plan,
    random: Pcg64,
    under_way: VecDeque<Chunk>,
    /// When the next garbage may come.
    garbage_from: Instant,
}

#[derive(Clone, Debug)]
struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
    is_open: bool,
}

impl Line {
    /// An empty line.
    pub fn new(plan: Plan) -> Self {
        Self {
            random: Pcg64::seed_from_u64(plan.seed),
            plan,
            under_way: VecDeque::new(),
            garbage_from: Instant::default(),
        }
    }

    /// Puts a chunk into the line.
    pub fn send(&mut self, bytes: &[u8], now: Instant) {
        let (mut late, mut merge, mut cut) = (Duration::ZERO, None, 0.0);
        let mut bytes = bytes.to_vec();
        for fault in self.plan.at(now) {
            let random = &mut self.random;
            match fault {
                Fault::Drop(chance) => bytes.retain(|_| !random.random_bool(*chance)),
                Fault::Corrupt(chance) => {
                    for byte in &mut bytes {
                        if random.random_bool(*chance) {
                            *byte ^= 1 << random.random_range(0..8);
                        }
                    }
                }
                Fault::Delay(range) => late += random.random_range(range.clone()),
                Fault::Split(chance) => cut = *chance,
                Fault::Merge(within) => merge = Some(*within),
                Fault::Silence | Fault::End => bytes.clear(),
                Fault::Flood(_) => {}
            }
        }
        if bytes.is_empty() {
            return;
        }
        if let Some(last) = self.under_way.back_mut()
            && merge.is_some()
            && last.is_open
            && last.due > now
        {
            last.bytes.extend(bytes);
            return;
        }
        let before = self.under_way.back().map_or(now, |last| last.due);
        let due = before.max(now + late + merge.unwrap_or_default());
        let random = &mut self.random;
        let pieces = bytes.chunk_by(|_, _| cut == 0.0 || !random.random_bool(cut));
        self.under_way.extend(pieces.map(|piece| Chunk {
            due,
            bytes: piece.to_vec(),
            is_open: merge.is_some(),
        }));
    }

    /// The next chunk that has arrived.
    pub fn receive(&mut self, now: Instant) -> Option<Vec<u8>> {
        let due = self.under_way.front().map(|chunk| chunk.due);
        if let Some((at, count)) = self.plan.next_garbage(self.garbage_from)
            && at <= now
            && due.is_none_or(|due| at <= due)
        {
            self.garbage_from = at + MS;
            return Some((0..count).map(|_| self.random.random()).collect());
        }
        if due? > now {
            return None;
        }
        self.under_way.pop_front().map(|chunk| chunk.bytes)
    }

    /// When something arrives next.
    pub fn next_wakeup(&self) -> Option<Instant> {
        let due = self.under_way.front().map(|chunk| chunk.due);
        let garbage = self.plan.next_garbage(self.garbage_from).map(|(at, _)| at);
        [due, garbage].into_iter().flatten().min()
    }
}

#[cfg(feature = "serial")]
pub use stream::Faulty;

#[cfg(feature = "serial")]
mod stream {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};

    use hhnet::drivers::TimeSource;
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tokio::time::Sleep;

    use super::*;

    /// Longest chunk read from the stream inside, bytes.
    const LONGEST: usize = 512;

    /// A byte stream with faults in both directions. What is under way to the other side moves on while this side reads, writes
    /// or flushes.
    pub struct Faulty<S> {
        inner: S,
        clock: TimeSource,
        plan: Plan,
        incoming: Line,
        outgoing: Line,
        /// Arrived, and more than the reader had room for.
        unread: Vec<u8>,
        /// Arrived at the stream inside, which has not taken it yet.
        unwritten: Vec<u8>,
        has_ended: bool,
        inner_has_ended: bool,
        alarm: Pin<Box<Sleep>>,
    }

    impl Plan {
        fn has_ended(&self, now: Instant) -> bool {
            self.at(now).any(|fault| *fault == Fault::End)
        }

        /// When the stream ends next.
        fn next_end(&self, now: Instant) -> Option<Instant> {
            let ends = self.faults.iter().filter(|(_, fault)| *fault == Fault::End);
            ends.map(|(during, _)| during.start)
                .filter(|start| *start > now)
                .min()
        }
    }

    impl<S> Faulty<S> {
        /// Wraps a stream. Needs a running tokio runtime, whose time passes as that of `clock`.
        pub fn new(inner: S, plan: Plan, clock: TimeSource) -> Self {
            let other = Plan {
                seed: plan.seed ^ (1 << 63),
                ..plan.clone()
            };
            let now = clock();
            let mut this = Self {
                inner,
                clock,
                incoming: Line::new(plan.clone()),
                outgoing: Line::new(other),
                plan,
                unread: Vec::new(),
                unwritten: Vec::new(),
                has_ended: false,
                inner_has_ended: false,
                alarm: Box::pin(tokio::time::sleep(Duration::ZERO)),
            };
            // Garbage of the time before there was a stream went elsewhere.
            (this.incoming.garbage_from, this.outgoing.garbage_from) = (now, now);
            this
        }

        fn now(&mut self) -> Instant {
            let now = (self.clock)();
            self.has_ended |= self.plan.has_ended(now);
            now
        }

        /// Wakes the task when anything happens that no stream tells of; `Ready` if that is now.
        fn wait(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
            let next = [
                self.incoming.next_wakeup(),
                self.outgoing.next_wakeup(),
                self.plan.next_end(now),
            ];
            let Some(next) = next.into_iter().flatten().min() else {
                return Poll::Pending;
            };
            // The timer's own resolution is a millisecond.
            let wait = next.since(now).max(MS);
            self.alarm.as_mut().reset(tokio::time::Instant::now() + wait);
            self.alarm.as_mut().poll(cx)
        }
    }

    impl<S: AsyncWrite + Unpin> Faulty<S> {
        /// Hands what has arrived over to the stream inside; `Ready` when it has taken all.
        fn pass_on(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            loop {
                while !self.unwritten.is_empty() {
                    let count = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.unwritten))?;
                    self.unwritten.drain(..count);
                }
                match self.outgoing.receive(now) {
                    Some(chunk) => self.unwritten = chunk,
                    None => return Poll::Ready(Ok(())),
                }
            }
        }
    }

    impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Faulty<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let this = &mut *self;
            loop {
                let now = this.now();
                if this.has_ended {
                    return Poll::Ready(Ok(()));
                }
                // A stream that takes nothing any more says so to the one who writes.
                drop(this.pass_on(now, cx));
                let mut room = [0; LONGEST];
                let mut chunk = ReadBuf::new(&mut room);
                while !this.inner_has_ended && Pin::new(&mut this.inner).poll_read(cx, &mut chunk)?.is_ready()
                {
                    this.inner_has_ended = chunk.filled().is_empty();
                    this.incoming.send(chunk.filled(), now);
                    chunk.clear();
                }
                if this.unread.is_empty() {
                    this.unread = this.incoming.receive(now).unwrap_or_default();
                }
                if !this.unread.is_empty() {
                    let count = this.unread.len().min(buffer.remaining());
                    buffer.put_slice(&this.unread[..count]);
                    this.unread.drain(..count);
                    return Poll::Ready(Ok(()));
                }
                if this.inner_has_ended && this.incoming.under_way.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                ready!(this.wait(now, cx));
            }
        }
    }

    impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Faulty<S> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let now = self.now();
            if self.has_ended {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            ready!(self.pass_on(now, cx))?;
            self.outgoing.send(bytes, now);
            // What cannot be handed over now is later.
            match self.pass_on(now, cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Ready(Ok(bytes.len())),
            }
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let now = self.now();
            ready!(self.pass_on(now, cx))?;
            Pin::new(&mut self.inner).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_shutdown(cx)
        }
    }
}

mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(1_000_000_000);
    const SENT: &[u8] =
        b"a line that is long enough for chance to strike it more than once, however it is thrown\n";

    fn at(ms: u32) -> Instant {
        START + MS * ms
    }

    /// What arrives when, ms, of `SENT` sent ten times, every 10 ms from 0, with the fault from 20 to 60 ms.
    fn arrived(seed: u64, fault: Fault) -> Vec<(u32, Vec<u8>)> {
        let mut line = Line::new(Plan::new(seed).with(at(20)..at(60), fault));
        let mut arrived = Vec::new();
        for ms in 0..1000 {
            if ms < 100 && ms % 10 == 0 {
                line.send(SENT, at(ms));
            }
            while let Some(chunk) = line.receive(at(ms)) {
                arrived.push((ms, chunk));
            }
            assert!(line.next_wakeup().is_none_or(|next| next > at(ms)));
        }
        assert_eq!(line.next_wakeup(), None, "all has arrived");
        arrived
    }

    /// What arrives of the four chunks that the fault met, all in one.
    fn met(fault: Fault) -> (Vec<(u32, Vec<u8>)>, Vec<u8>) {
        let arrived = arrived(1, fault);
        let (before, rest) = arrived.split_at(2);
        let (bad, after) = rest.split_at(rest.len() - 4);
        let whole = |times: [u32; 2]| times.map(|ms| (ms, SENT.to_vec()));
        assert_eq!(before, whole([0, 10]));
        assert_eq!(after[..2], whole([60, 70]));
        (
            bad.to_vec(),
            bad.iter().flat_map(|(_, chunk)| chunk.clone()).collect(),
        )
    }

    fn is_part(part: &[u8], mut whole: &[u8]) -> bool {
        part.iter().all(|byte| {
            let found = whole.iter().position(|other| other == byte);
            whole = found.map_or(&[] as &[u8], |at| &whole[at + 1..]);
            found.is_some()
        })
    }

    #[test]
    fn a_line_without_faults_hands_over_what_it_gets() {
        let (chunks, bytes) = met(Fault::Split(0.0));
        assert_eq!(
            chunks.iter().map(|(ms, _)| *ms).collect::<Vec<_>>(),
            [20, 30, 40, 50]
        );
        assert_eq!(bytes, SENT.repeat(4));
    }

    #[test]
    fn bytes_are_lost() {
        let (_, bytes) = met(Fault::Drop(0.3));
        let sent = SENT.repeat(4);
        assert!(is_part(&bytes, &sent));
        let share = bytes.len() as f64 / sent.len() as f64;
        assert!((0.55..0.85).contains(&share), "{share}");
        for fault in [Fault::Drop(1.0), Fault::Silence, Fault::End] {
            assert_eq!(met(fault).0, []);
        }
    }

    #[test]
    fn bits_are_turned_one_a_byte() {
        let (_, bytes) = met(Fault::Corrupt(1.0));
        let sent = SENT.repeat(4);
        assert_eq!(bytes.len(), sent.len());
        assert!(
            bytes
                .iter()
                .zip(&sent)
                .all(|(byte, other)| (byte ^ other).count_ones() == 1)
        );
    }

    #[test]
    fn chunks_are_late_and_in_order() {
        for seed in 0..20 {
            let arrived = arrived(seed, Fault::Delay(5 * MS..300 * MS));
            assert!(arrived.iter().all(|(_, chunk)| chunk == SENT));
            let times: Vec<u32> = arrived.iter().map(|(ms, _)| *ms).collect();
            assert!(times.len() == 10 && times.is_sorted(), "{times:?}");
            assert!(
                times[2] >= 25 && times[5] < 350 && times[6] >= times[5],
                "{times:?}"
            );
        }
    }

    #[test]
    fn chunks_are_split_and_merged() {
        let (chunks, bytes) = met(Fault::Split(1.0));
        assert!(chunks.iter().all(|(_, chunk)| chunk.len() == 1));
        assert_eq!(bytes, SENT.repeat(4));
        let (chunks, _) = met(Fault::Merge(15 * MS));
        assert_eq!(chunks, [(35, SENT.repeat(2)), (55, SENT.repeat(2))]);
    }

    #[test]
    fn garbage_comes_besides_what_is_sent() {
        let (chunks, bytes) = met(Fault::Flood(3));
        assert_eq!(bytes.len(), 4 * SENT.len() + 40 * 3);
        assert_eq!(chunks.iter().filter(|(_, chunk)| chunk.len() == 3).count(), 40);
    }

    #[test]
    fn chance_follows_from_the_seed() {
        let fault = || Fault::Corrupt(0.5);
        assert_eq!(arrived(3, fault()), arrived(3, fault()));
        assert_ne!(arrived(3, fault()), arrived(4, fault()));
        let random = |seed| Plan::random(seed, at(0)..at(900)).faults;
        assert_eq!(random(5), random(5));
        assert_ne!(random(5), random(6));
    }

    #[cfg(feature = "serial")]
    #[tokio::test(start_paused = true)]
    async fn a_stream_has_the_faults_of_its_plan_in_both_directions() {
        use std::sync::Arc;

        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let start = tokio::time::Instant::now();
        let (near, mut far) = tokio::io::duplex(4096);
        let plan = Plan::new(1)
            .with(at(100)..at(200), Fault::Delay(50 * MS..51 * MS))
            .with(at(300)..at(400), Fault::Silence)
            .with(at(500)..at(501), Fault::Flood(7))
            .with(at(600)..at(700), Fault::End);
        let mut near = Faulty::new(near, plan, Arc::new(move || START + start.elapsed()));
        let passed = || start.elapsed().as_millis();
        let mut bytes = [0; 64];

        far.write_all(b"ready").await.unwrap();
        assert_eq!(near.read(&mut bytes).await.unwrap(), 5);
        near.write_all(b"status").await.unwrap();
        assert_eq!(far.read(&mut bytes).await.unwrap(), 6);
        assert_eq!((passed(), &bytes[..6]), (0, b"status".as_slice()));

        tokio::time::sleep_until(start + 100 * MS).await;
        far.write_all(b"late").await.unwrap();
        assert_eq!(near.read(&mut bytes[..3]).await.unwrap(), 3);
        assert!((150..=152).contains(&passed()), "{}", passed());
        assert_eq!(near.read(&mut bytes[3..]).await.unwrap(), 1);
        assert_eq!(&bytes[..4], b"late");

        tokio::time::sleep_until(start + 300 * MS).await;
        far.write_all(b"lost").await.unwrap();
        near.write_all(b"lost").await.unwrap();
        // Garbage is the first that is heard again.
        assert_eq!(near.read(&mut bytes).await.unwrap(), 7);
        assert!((500..=502).contains(&passed()), "{}", passed());
        assert_eq!(far.read(&mut bytes).await.unwrap(), 7);

        assert_eq!(near.read(&mut bytes).await.unwrap(), 0);
        assert!((600..=602).contains(&passed()), "{}", passed());
        let refused = near.write_all(b"more").await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::BrokenPipe);
        tokio::time::sleep_until(start + 800 * MS).await;
        assert_eq!(near.read(&mut bytes).await.unwrap(), 0, "it stays ended");
    }
}
