//! Properties of every sequence of events.

use proptest::prelude::*;

use super::*;
use NeighbourState::{Delay, Failed, Incomplete, Noarp, Permanent, Probe, Reachable, Stale};

fn entry(state: NeighbourState, seconds: u64) -> Entry {
    Entry { state, confirmed: Duration::from_secs(seconds), keeper: Keeper::Kernel }
}

fn seen() -> Neighbour {
    Neighbour { answer: Answer::Seen, asked: true, ..Neighbour::new(Resolution::Asks) }
}

fn silent() -> Neighbour {
    Neighbour { answer: Answer::Silent, ..seen() }
}

/// The result of a check of `entry` for `neighbour`, and the request at the interval.
fn looked(mut neighbour: Neighbour, entry: Option<Entry>) -> (Answer, Option<Ask>) {
    let ask = neighbour.look(entry.as_ref(), Occasion::Turn);
    (neighbour.answer, ask)
}

#[test]
fn nothing_counts_before_the_first_answer() {
    for (found, ask) in [
        (None, Some(Ask::Create)),
        (Some(entry(Incomplete, 9)), None),
        (Some(entry(Stale, 61)), Some(Ask::Confirm)),
        (Some(entry(Delay, 61)), Some(Ask::Confirm)),
        (Some(entry(Probe, 61)), None),
    ] {
        assert_eq!(looked(Neighbour::new(Resolution::Asks), found), (Answer::Awaited, ask), "{found:?}");
    }
}

#[test]
fn after_a_restart_a_recent_answer_counts_at_once() {
    for state in [Reachable, Stale, Delay, Probe] {
        assert_eq!(looked(Neighbour::new(Resolution::Asks), Some(entry(state, 45))).0, Answer::Seen, "{state:?}");
    }
    assert_eq!(
        looked(Neighbour::new(Resolution::Asks), Some(entry(Reachable, 61))).0,
        Answer::Seen,
        "the kernel still vouches for it"
    );
}

#[test]
fn a_neighbour_that_needs_no_answer_is_seen_and_left_alone() {
    for state in [Permanent, Noarp] {
        assert_eq!(looked(Neighbour::new(Resolution::Asks), Some(entry(state, 10_000))), (Answer::Seen, None), "{state:?}");
    }
}

#[test]
fn an_interface_without_resolution_asks_nobody() {
    let neighbour = Neighbour::new(Resolution::None);
    assert_eq!(looked(neighbour, None), (Answer::Seen, None));
    assert_eq!(looked(neighbour, Some(entry(Failed, 9))), (Answer::Seen, None));
}

#[test]
fn what_a_neighbour_in_good_health_does_calls_for_no_look() {
    for state in [Some(Probe), Some(Reachable), Some(Stale), Some(Delay), None] {
        assert_eq!(seen().hear(state), None, "{state:?}");
        assert!(silent().hear(state).is_some(), "{state:?}");
    }
    assert_eq!(seen().hear(Some(Failed)), Some(Answer::Seen), "one failure");
}

#[test]
fn an_entry_that_another_program_keeps_is_believed_and_left_alone() {
    let kept = |state| Some(Entry { keeper: Keeper::Another, ..entry(state, 10_000) });
    for state in [Stale, Delay, Probe, Reachable, Permanent] {
        assert_eq!(looked(Neighbour::new(Resolution::Asks), kept(state)), (Answer::Seen, None), "{state:?}");
    }
    assert_eq!(looked(silent(), kept(Failed)), (Answer::Silent, None));
}

#[test]
fn a_silent_neighbour_stays_silent_until_it_answers() {
    let mut neighbour = silent();
    for found in [None, Some(entry(Incomplete, 60)), Some(entry(Failed, 60)), Some(entry(Stale, 1)), Some(entry(Probe, 1))] {
        neighbour.look(found.as_ref(), Occasion::Turn);
        assert_eq!(neighbour.answer, Answer::Silent, "{found:?}");
    }
    neighbour.look(Some(&entry(Reachable, 0)), Occasion::Event);
    assert_eq!(neighbour.answer, Answer::Seen);
}

#[test]
fn a_second_failure_counts_and_the_first_has_everybody_asked() {
    let mut neighbour = seen();
    assert_eq!(neighbour.look(Some(&entry(Failed, 60)), Occasion::Event), Some(Ask::Resolve), "at once");
    assert_eq!(neighbour.answer, Answer::Seen);
    assert_eq!(neighbour.look(Some(&entry(Incomplete, 60)), Occasion::Event), None);
    assert_eq!(neighbour.answer, Answer::Seen);
    neighbour.look(Some(&entry(Failed, 60)), Occasion::Event);
    assert_eq!(neighbour.answer, Answer::Silent);
}

#[test]
fn a_neighbour_that_never_answered_is_silent_with_the_first_failure() {
    assert_eq!(looked(Neighbour::new(Resolution::Asks), Some(entry(Failed, 60))), (Answer::Silent, Some(Ask::Resolve)));
}

#[test]
fn failures_count_where_traffic_has_the_kernel_ask_again_at_once() {
    let mut neighbour = seen();
    for expected in [Answer::Seen, Answer::Silent] {
        neighbour.hear(Some(Failed));
        neighbour.look(Some(&entry(Incomplete, 60)), Occasion::Event);
        assert_eq!(neighbour.answer, expected);
    }
}

#[test]
fn a_router_that_took_over_with_another_hardware_address_is_never_silent() {
    let mut neighbour = seen();
    for state in [Probe, Failed, Incomplete, Reachable, Probe, Failed, Incomplete, Reachable] {
        neighbour.hear(Some(state));
        neighbour.look(Some(&entry(state, 60)), Occasion::Event);
        assert_eq!(neighbour.answer, Answer::Seen, "{state:?}");
    }
}

#[test]
fn the_first_question_of_the_kernel_is_no_silence() {
    let mut neighbour = seen();
    neighbour.look(Some(&entry(Incomplete, 60)), Occasion::Turn);
    assert_eq!(neighbour.answer, Answer::Seen);
}

#[test]
fn an_entry_that_somebody_deletes_says_nothing() {
    let mut neighbour = seen();
    neighbour.hear(Some(Failed));
    neighbour.hear(None);
    assert_eq!(neighbour.look(None, Occasion::Event), None, "asked for in its turn");
    assert_eq!(neighbour.answer, Answer::Seen);
    neighbour.hear(Some(Failed));
    neighbour.hear(None);
    neighbour.look(Some(&entry(Incomplete, 60)), Occasion::Event);
    assert_eq!(neighbour.answer, Answer::Seen, "asked anew for a packet");
}

#[test]
fn a_new_neighbour_is_asked_for_at_once_and_a_known_one_in_its_turn() {
    let mut neighbour = Neighbour::new(Resolution::Asks);
    assert_eq!(neighbour.look(None, Occasion::Event), Some(Ask::Create));
    assert_eq!(neighbour.look(None, Occasion::Event), None, "once");
    assert_eq!(neighbour.look(Some(&entry(Failed, 9)), Occasion::Event), None);
    assert_eq!(neighbour.look(Some(&entry(Failed, 9)), Occasion::Turn), Some(Ask::Resolve));
    assert_eq!(neighbour.look(Some(&entry(Stale, 61)), Occasion::Event), Some(Ask::Confirm), "it was just heard");
    assert_eq!(seen().look(Some(&entry(Stale, 61)), Occasion::Event), None);
    assert_eq!(seen().look(Some(&entry(Reachable, 1)), Occasion::Turn), None, "it answered just now");
    assert_eq!(seen().look(Some(&entry(Reachable, 3)), Occasion::Turn), Some(Ask::Confirm));
}

/// One event for the entry of a neighbour that answers every request.
#[derive(Clone, Copy, Debug)]
enum Happening {
    /// The kernel changes the state, with or without an event.
    State(NeighbourState, bool),
    /// The kernel removes the entry, or its interface loses its carrier.
    Forgotten,
    /// The entry is deleted: the kernel reports a failure, then the deletion.
    Deleted,
    /// It is checked, at the interval or in between.
    Looked(Occasion),
}

fn happening() -> impl Strategy<Value = Happening> {
    let states = prop::sample::select(vec![Incomplete, Reachable, Stale, Delay, Probe, NeighbourState::None]);
    prop_oneof![
        4 => (states, any::<bool>()).prop_map(|(state, told)| Happening::State(state, told)),
        1 => Just(Happening::Forgotten),
        1 => Just(Happening::Deleted),
        4 => prop::sample::select(vec![Occasion::Turn, Occasion::Event]).prop_map(Happening::Looked),
    ]
}

/// The result of `course`, from a neighbour that was seen.
fn after(course: &[Happening]) -> Neighbour {
    let (mut neighbour, mut kept) = (seen(), Some(entry(Reachable, 0)));
    for happening in course {
        match *happening {
            Happening::State(state, told) => {
                kept = Some(entry(state, 600));
                if told {
                    neighbour.hear(Some(state));
                }
            }
            Happening::Forgotten => {
                kept = None;
                neighbour.hear(None);
            }
            Happening::Deleted => {
                kept = None;
                neighbour.hear(Some(Failed));
                neighbour.hear(None);
            }
            Happening::Looked(occasion) => drop(neighbour.look(kept.as_ref(), occasion)),
        }
    }
    neighbour
}

proptest! {
    #[test]
    fn a_neighbour_that_answers_is_never_silent_whatever_the_kernel_does(course in prop::collection::vec(happening(), 0..40)) {
        prop_assert_eq!(after(&course).answer, Answer::Seen);
    }

    #[test]
    fn a_neighbour_that_failed_is_silent_until_it_answers(course in prop::collection::vec(happening(), 0..40)) {
        let mut neighbour = silent();
        let mut answered = false;
        let mut kept = Some(entry(Failed, 600));
        for happening in course {
            match happening {
                Happening::State(state, _) => {
                    kept = Some(entry(state, 600));
                    neighbour.hear(Some(state));
                    answered |= state == Reachable;
                }
                Happening::Forgotten | Happening::Deleted => {
                    kept = None;
                    neighbour.hear(None);
                }
                Happening::Looked(occasion) => drop(neighbour.look(kept.as_ref(), occasion)),
            }
            prop_assert_eq!(neighbour.answer == Answer::Seen, answered);
        }
    }
}
