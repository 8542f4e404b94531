//! The forwards that the translations of a record belong to.

use super::share::aged;
use super::*;
use crate::model::Translation;
use crate::plan::owners;

/// The forward of the seed with these changes.
fn forward(name: &str, second: u32, changes: &[(&str, Value)]) -> Forward {
    aged("a", name, second, with(changes)).forward.unwrap()
}

/// The names of the owners of the first translation of `of`.
fn names(of: &Forward, forwards: &[Forward]) -> Vec<String> {
    let translations: Vec<Translation> = of.translations().into_iter().take(1).collect();
    owners::of(&translations, forwards).remove(0).into_iter().map(|key| key.name.clone()).collect()
}

#[test]
fn a_translation_belongs_to_the_forward_that_asks_for_all_of_it_or_else_for_its_flows() {
    let same = forward("same", 2, &[]);
    let edited = forward("edited", 1, &[("/upstream/targets/0/address", json!("9.9.9.9"))]);
    assert_eq!(names(&same, &[edited.clone(), same.clone()]), ["same"]);
    assert_eq!(names(&same, std::slice::from_ref(&edited)), ["edited"], "the upstream was edited");
    for changes in [("/client/addresses", json!(["5.5.5.5"])), ("/ports/0/port", json!(81)), ("/ports/0/protocol", json!("UDP"))]
    {
        assert_eq!(names(&same, &[forward("other", 1, std::slice::from_ref(&changes))]), [""; 0], "{changes:?}");
    }
}

#[test]
fn translations_of_several_clients_are_told_apart() {
    let forwards = ["1.1.1.1", "5.5.5.5"].map(|client| forward(client, 1, &[("/client/addresses", json!([client]))]));
    let translations: Vec<Translation> = forwards.iter().flat_map(Forward::translations).collect();
    let owners = owners::of(&translations, &forwards);
    assert_eq!(owners, [vec![&forwards[0].key], vec![&forwards[1].key]]);
}

#[test]
fn a_part_of_the_clients_or_of_the_ports_is_enough_and_one_forward_is_named_once() {
    let client = |network: &str| ("/client/addresses", json!([network]));
    let (wide, narrow) = (forward("wide", 1, &[client("1.1.0.0/16")]), forward("narrow", 1, &[client("1.1.1.1")]));
    assert_eq!(names(&wide, std::slice::from_ref(&narrow)), ["narrow"]);
    assert_eq!(names(&narrow, std::slice::from_ref(&wide)), ["wide"]);
    let ports = |list: Value| ("/ports", list);
    let range = forward("range", 1, &[ports(json!([{"name": "a", "port": 80, "endPort": 89}]))]);
    let split = json!([{"name": "a", "port": 80, "endPort": 84}, {"name": "b", "port": 85, "endPort": 89}]);
    assert_eq!(names(&range, &[forward("split", 1, &[ports(split)])]), ["split"]);
}

#[test]
fn the_older_owner_comes_first_and_their_number_is_limited() {
    let (old, young) = (forward("z", 1, &[]), forward("a", 2, &[]));
    assert_eq!(names(&old, &[young, old.clone()]), ["z", "a"]);
    let many: Vec<Forward> = (0..40).map(|number| forward(&format!("f{number:02}"), number, &[])).collect();
    let expected: Vec<String> = (0..16).map(|number| format!("f{number:02}")).collect();
    assert_eq!(names(&old, &many), expected);
}
