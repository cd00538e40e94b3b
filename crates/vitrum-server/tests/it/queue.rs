//! The queue keeps its promises in any order of events.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vitrum_server::queue::{Limits, Next, Queue, Refusal};

/// What may happen to a queue.
#[derive(Clone, Debug)]
enum Event {
    /// A request with so many images and milliseconds to live.
    Push(usize, u64),
    /// A worker asks for work.
    Next,
    /// Time passes.
    Pass(u64),
    /// The client of a request leaves.
    Leave(usize),
    /// Nothing more is taken.
    Close,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (1usize..12, 0u64..60).prop_map(|(images, life)| Event::Push(images, life)),
        8 => Just(Event::Next),
        4 => (0u64..30).prop_map(Event::Pass),
        2 => (0usize..40).prop_map(Event::Leave),
        1 => Just(Event::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_leaves_once_in_order_and_in_time(
        max_batch in 1usize..10,
        max_queue in 1usize..24,
        delay in 0u64..40,
        events in prop::collection::vec(event(), 1..120),
    ) {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let limits = Limits { max_batch, max_queue, max_delay: Duration::from_millis(delay) };
        let mut queue = Queue::new(limits);
        // Of each request that was taken: images, arrival, deadline.
        let mut taken: Vec<(usize, u64, u64)> = Vec::new();
        let (mut gone, mut left, mut last) = (HashSet::new(), HashSet::new(), None);
        let (mut now, mut is_closed) = (0, false);
        let mut ask = |queue: &mut Queue<usize>, taken: &[(usize, u64, u64)], gone: &HashSet<usize>, now: u64, is_closed: bool| {
            let waiting = |left: &HashSet<usize>| (0..taken.len()).filter(|name| !left.contains(name)).collect::<Vec<_>>();
            match queue.next(at(now), |name| gone.contains(name)) {
                Next::Batch { jobs, late } => {
                    prop_assert!(!jobs.is_empty() || !late.is_empty());
                    prop_assert!(jobs.iter().map(|name| taken[*name].0).sum::<usize>() <= max_batch);
                    for name in &jobs {
                        prop_assert!(!gone.contains(name) && taken[*name].2 > now && left.insert(*name));
                        prop_assert!(last.is_none_or(|last| last < *name));
                        last = Some(*name);
                    }
                    for name in &late {
                        prop_assert!(!gone.contains(name) && taken[*name].2 <= now && left.insert(*name));
                    }
                    if let Some(first) = jobs.first() {
                        let (_, arrived, _) = taken[*first];
                        let rest: usize = waiting(&left).iter().filter(|name| !gone.contains(name)).map(|name| taken[*name].0).sum();
                        let own: usize = jobs.iter().map(|name| taken[*name].0).sum();
                        prop_assert!(is_closed || now >= arrived + delay || own + rest >= max_batch);
                    }
                }
                Next::Wait(until) => {
                    left.extend(gone.iter().filter(|name| **name < taken.len()));
                    let rest = waiting(&left);
                    prop_assert_eq!(until.is_none(), rest.is_empty());
                    prop_assert!(until.is_none_or(|until| until > at(now)));
                    prop_assert!(!is_closed);
                }
                Next::End => {
                    left.extend(gone.iter().filter(|name| **name < taken.len()));
                    prop_assert!(is_closed && waiting(&left).is_empty());
                    return Ok(true);
                }
            }
            Ok(false)
        };
        for event in events {
            match event {
                Event::Push(images, life) => {
                    let before = queue.images();
                    match queue.push(taken.len(), images, at(now), at(now + life)) {
                        Ok(()) => {
                            prop_assert!(!is_closed && before + images <= max_queue && images <= max_batch);
                            taken.push((images, now, now + life));
                        }
                        Err((_, Refusal::Closed)) => prop_assert!(is_closed),
                        Err((_, Refusal::TooLarge)) => prop_assert!(images > max_batch.min(max_queue)),
                        Err((_, Refusal::Full)) => prop_assert!(before + images > max_queue),
                    }
                }
                Event::Next => {
                    ask(&mut queue, &taken, &gone, now, is_closed)?;
                }
                Event::Pass(ms) => now += ms,
                Event::Leave(name) => {
                    if name < taken.len() {
                        gone.insert(name);
                    }
                }
                Event::Close => {
                    queue.close();
                    is_closed = true;
                }
            }
            prop_assert!(queue.images() <= max_queue);
        }
        // A closed queue comes to its end, and then nothing waits.
        queue.close();
        let mut turns = 0;
        while !ask(&mut queue, &taken, &gone, now, true)? {
            turns += 1;
            prop_assert!(turns <= 2 * taken.len() + 2);
        }
        prop_assert_eq!(queue.images(), 0);
    }
}
