//! Tests the order of writes, also by random courses.

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { at_once: 4, at_once_each: 2, burst: 5, interval: Duration::from_secs(1) };

fn key(text: &str) -> ForwardKey {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    ForwardKey::new(namespace, name)
}

fn marked(keys: &[&str]) -> Turns {
    let mut turns = Turns::new(LIMITS);
    for text in keys {
        turns.mark(&key(text));
    }
    turns
}

/// Begins and ends this number of writes, one after the other.
fn order(turns: &mut Turns, now: Instant, count: usize) -> Vec<String> {
    let one = |_| {
        let key = turns.begin(now)?;
        turns.end(&key);
        Some(key.to_string())
    };
    (0..count).map_while(one).collect()
}

#[test]
fn the_namespaces_take_turns_and_each_keeps_the_order_of_its_names() {
    let mut turns = marked(&["a/1", "a/2", "a/3", "b/7", "c/8", "c/9"]);
    assert_eq!(order(&mut turns, Instant::now(), 9), ["a/1", "b/7", "c/8", "a/2", "c/9", "a/3"]);
}

#[test]
fn a_namespace_that_comes_later_is_next() {
    let (mut turns, now) = (marked(&["a/1", "a/2", "a/3", "b/1", "b/2"]), Instant::now());
    assert_eq!(order(&mut turns, now, 2), ["a/1", "b/1"]);
    turns.mark(&key("z/web"));
    assert_eq!(order(&mut turns, now, 2), ["z/web", "a/2"]);
}

#[test]
fn an_object_waits_once_and_not_while_it_is_written() {
    let (mut turns, now) = (marked(&["a/1", "a/1"]), Instant::now());
    let first = turns.begin(now).unwrap();
    assert!(turns.is_running(&first));
    turns.mark(&first);
    assert_eq!(turns.begin(now), None, "its write is running");
    assert!(turns.end(&first), "it changed again");
    assert_eq!(turns.begin(now), None);
    turns.mark(&first);
    turns.unmark(&first);
    assert_eq!((turns.begin(now), turns.waiting("a")), (None, 0), "it changed back");
}

#[test]
fn an_object_that_changed_back_takes_no_precedence_and_leaves_nothing() {
    let (mut turns, now) = (marked(&["a/1", "a/2"]), Instant::now());
    let first = turns.begin(now).unwrap();
    turns.end_and_mark(&first, Place::Next);
    turns.unmark(&first);
    assert_eq!(order(&mut turns, now, 9), ["a/2"]);
    assert_eq!((turns.lanes.len(), turns.begin(now + LIMITS.interval * 100)), (1, None));
    assert!(turns.lanes.is_empty(), "a namespace in which nothing waits is forgotten after its rate allows a whole burst");
}

#[test]
fn a_change_that_was_taken_back_during_a_write_asks_for_no_other_one() {
    let (mut turns, now) = (marked(&["a/1"]), Instant::now());
    let first = turns.begin(now).unwrap();
    turns.mark(&first);
    turns.unmark(&first);
    assert!(!turns.end(&first));
}

#[test]
fn a_namespace_in_which_nothing_waits_has_no_new_burst() {
    let (mut turns, now) = (marked(&["a/1", "a/2", "a/3", "a/4", "a/5"]), Instant::now());
    assert_eq!(order(&mut turns, now, 9).len(), 5);
    assert_eq!(turns.begin(now), None);
    turns.mark(&key("a/6"));
    assert_eq!((turns.begin(now), turns.ready(now)), (None, Some(now + LIMITS.interval)));
}

#[test]
fn while_as_many_writes_run_as_may_only_their_end_allows_another_one() {
    let (mut turns, now) = (marked(&["a/1", "a/2", "a/3"]), Instant::now());
    let first = [turns.begin(now).unwrap(), turns.begin(now).unwrap()];
    assert_eq!(turns.ready(now), None, "two in one namespace");
    for name in ["b/1", "c/1", "d/1"] {
        turns.mark(&key(name));
    }
    assert_eq!(turns.ready(now), Some(now));
    assert!(turns.begin(now).is_some() && turns.begin(now).is_some());
    assert_eq!((turns.begin(now), turns.ready(now)), (None, None), "four at all");
    turns.end(&first[0]);
    assert_eq!(turns.ready(now), Some(now));
}

#[test]
fn the_second_write_of_an_object_follows_its_first_but_no_third_does() {
    let (mut turns, now) = (marked(&["a/1", "a/2", "a/3"]), Instant::now());
    let mut written = Vec::new();
    for _ in 0..5 {
        let key = turns.begin(now).unwrap();
        written.push(key.to_string());
        turns.end_and_mark(&key, Place::Next);
    }
    assert_eq!(written, ["a/1", "a/1", "a/2", "a/2", "a/3"]);
}

#[test]
fn one_namespace_leaves_room_for_another() {
    let (mut turns, now) = (marked(&["a/1", "a/2", "a/3"]), Instant::now());
    let slow = [turns.begin(now).unwrap(), turns.begin(now).unwrap()];
    assert_eq!(turns.begin(now), None, "two at once in one namespace");
    turns.mark(&key("b/1"));
    assert_eq!(turns.begin(now), Some(key("b/1")));
    turns.end(&slow[0]);
    assert_eq!(turns.begin(now), Some(key("a/3")));
}

#[test]
fn after_its_burst_a_namespace_writes_at_its_rate_and_others_do_not_wait_for_it() {
    let (mut turns, now) = (marked(&["a/1", "a/2", "a/3", "a/4", "a/5", "a/6", "a/7"]), Instant::now());
    assert_eq!(order(&mut turns, now, 9).len(), 5);
    assert_eq!(turns.ready(now), Some(now + LIMITS.interval));
    turns.mark(&key("b/1"));
    assert_eq!((turns.ready(now), order(&mut turns, now, 9)), (Some(now), vec!["b/1".to_owned()]));
    assert_eq!(order(&mut turns, now + LIMITS.interval, 9), ["a/6"]);
    // After enough time, it may write a whole burst again, and not more.
    let later = now + LIMITS.interval * 100;
    (0..9).for_each(|name| turns.mark(&key(&format!("a/{name}"))));
    assert_eq!(order(&mut turns, later, 9).len(), 5);
}

#[test]
fn what_is_free_of_charge_waits_for_no_rate_and_leaves_the_burst_to_others() {
    let names: Vec<String> = (0..20).map(|name| format!("a/{name:02}")).collect();
    let (mut turns, now) = (marked(&names.iter().map(String::as_str).collect::<Vec<_>>()), Instant::now());
    for name in &names {
        let key = turns.begin(now).unwrap();
        assert_eq!(key.to_string(), *name);
        turns.free_of_charge(&key);
        turns.end(&key);
    }
    (0..9).for_each(|name| turns.mark(&key(&format!("a/{name}"))));
    assert_eq!(order(&mut turns, now, 9).len(), 5);
}

/// An API server that does not answer would keep each write until its time limit.
#[test]
fn no_write_begins_while_all_are_held() {
    let (mut turns, now) = (marked(&["a/1", "b/1"]), Instant::now());
    let until = now + Duration::from_secs(3);
    turns.hold(Some(until));
    assert_eq!((turns.begin(now), turns.ready(now)), (None, Some(until)));
    assert_eq!(turns.begin(until), Some(key("a/1")));
    turns.hold(Some(until + Duration::from_secs(1)));
    turns.hold(None);
    assert_eq!(turns.begin(now), Some(key("b/1")));
    assert_eq!(turns.ready(now), None, "nothing waits");
}

#[derive(Clone, Debug)]
enum Step {
    Mark(ForwardKey),
    Unmark(ForwardKey),
    Begin,
    /// Ends the write with this number among the running ones, and marks it again at this place.
    End(usize, Option<Place>),
    Pass(Duration),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || ("[a-d]", "[0-9]").prop_map(|(namespace, name)| ForwardKey::new(namespace, name));
    let place = prop_oneof![Just(None), Just(Some(Place::InOrder)), Just(Some(Place::Next))];
    let step = prop_oneof![
        4 => key().prop_map(Step::Mark),
        1 => key().prop_map(Step::Unmark),
        6 => Just(Step::Begin),
        4 => (0..4usize, place).prop_map(|(index, place)| Step::End(index, place)),
        1 => (0..4000u64).prop_map(|millis| Step::Pass(Duration::from_millis(millis))),
    ];
    proptest::collection::vec(step, 0..400)
}

/// What a random course did so far.
struct Course {
    turns: Turns,
    start: Instant,
    now: Instant,
    running: Vec<ForwardKey>,
    begun: BTreeMap<String, Vec<Duration>>,
}

impl Course {
    fn new() -> Self {
        let now = Instant::now();
        Self { turns: Turns::new(LIMITS), start: now, now, running: Vec::new(), begun: BTreeMap::new() }
    }

    /// The namespaces that may begin a write now.
    fn ready(&self) -> BTreeSet<String> {
        let ready = self.turns.lanes.iter().filter(|(_, lane)| lane.may_begin(LIMITS, self.now));
        ready.map(|(namespace, _)| namespace.clone()).collect()
    }

    fn begin(&mut self) -> Option<ForwardKey> {
        let key = self.turns.begin(self.now)?;
        assert!(!self.running.contains(&key), "{key} is written twice at the same time");
        self.running.push(key.clone());
        assert!(self.running.len() <= LIMITS.at_once);
        assert!(self.running.iter().filter(|it| it.namespace == key.namespace).count() <= LIMITS.at_once_each);
        self.begun.entry(key.namespace.clone()).or_default().push(self.now - self.start);
        Some(key)
    }

    fn end(&mut self, index: usize, place: Option<Place>) {
        if index < self.running.len() {
            let key = self.running.remove(index);
            match place {
                Some(place) => self.turns.end_and_mark(&key, place),
                None => {
                    if self.turns.end(&key) {
                        self.turns.mark(&key);
                    }
                }
            }
        }
    }

    fn step(&mut self, step: &Step) -> Option<ForwardKey> {
        match step {
            Step::Mark(key) => self.turns.mark(key),
            Step::Unmark(key) => self.turns.unmark(key),
            Step::Begin => return self.begin(),
            Step::End(index, place) => self.end(*index, *place),
            Step::Pass(time) => self.now += *time,
        }
        None
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn while_a_namespace_may_write_no_other_one_has_two_turns(steps in steps()) {
        let mut course = Course::new();
        // For each namespace that may begin: the turns of the others since then.
        let mut passed: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for step in &steps {
            let begun = course.step(step);
            let ready = course.ready();
            if let Some(key) = begun {
                passed.remove(&key.namespace);
                for (waiting, others) in &mut passed {
                    prop_assert!(!others.contains(&key.namespace), "{waiting} waits, and {others:?} were followed by {key}");
                    others.push(key.namespace.clone());
                }
            }
            passed.retain(|namespace, _| ready.contains(namespace));
            for namespace in ready {
                passed.entry(namespace).or_default();
            }
        }
    }

    #[test]
    fn no_namespace_writes_more_than_its_burst_and_its_rate(steps in steps()) {
        let mut course = Course::new();
        for step in &steps {
            course.step(step);
        }
        for times in course.begun.values() {
            for (index, from) in times.iter().enumerate() {
                // Of these writes, the burst is free, and each further one needs an interval.
                let further = times[index..].iter().skip(LIMITS.burst as usize);
                for (needed, at) in (1..).zip(further) {
                    prop_assert!(*at >= *from + LIMITS.interval * needed, "{times:?}");
                }
            }
        }
    }

    #[test]
    fn everything_that_waits_is_written(steps in steps()) {
        let mut course = Course::new();
        for step in &steps {
            course.step(step);
        }
        let mut waiting: BTreeSet<ForwardKey> = BTreeSet::new();
        for (namespace, lane) in &course.turns.lanes {
            let names = lane.first.iter().chain(&lane.waiting).chain(&lane.again);
            waiting.extend(names.map(|name| ForwardKey::new(namespace.clone(), name.clone())));
        }
        // Each one asks for another write at once, which must not keep the others from theirs.
        for _ in 0..1000 {
            while let Some(key) = course.begin() {
                waiting.remove(&key);
            }
            while !course.running.is_empty() {
                course.end(0, Some(Place::Next));
            }
            course.now = course.turns.ready(course.now).unwrap_or(course.now);
        }
        prop_assert!(waiting.is_empty(), "{waiting:?} wait");
    }
}
