//! Tests that the API server and the agent's own types agree on any spec.

use proptest::prelude::*;

use super::any::{object, objects};
use super::{apply, grants, own};

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn the_types_refuse_exactly_what_the_api_server_refuses(object in object()) {
        let (own, applied) = (own(&object), apply(&object));
        prop_assert_eq!(own.is_ok(), applied.is_ok(), "types: {:?}\napply: {:?}", own, applied);
    }

    #[test]
    fn the_types_refuse_exactly_the_grants_that_the_api_server_refuses(object in grants::object()) {
        let (own, applied) = (grants::own(&object), apply(&object));
        prop_assert_eq!(own.is_ok(), applied.is_ok(), "types: {:?}\napply: {:?}", own, applied);
    }
}

#[test]
fn random_specs_are_taken_often_enough_to_prove_something() {
    let taken = objects(2_000).iter().filter(|object| own(object).is_ok()).count();
    assert!(taken > 60, "{taken} of 2000");
    let taken = grants::objects(2_000).iter().filter(|object| grants::own(object).is_ok()).count();
    assert!((60..1_900).contains(&taken), "{taken} of 2000 grants");
}
