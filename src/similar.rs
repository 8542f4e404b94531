//! Finds names that are similar to a misspelt one, for "did you mean" in messages. Pure.

/// The smallest Jaro-Winkler similarity, from 0 to 1, at which a name is offered.
const ALIKE: f64 = 0.8;

/// How similar two names are, from 0 (nothing in common) to 1 (equal), by Jaro-Winkler; upper and lower case count as equal.
pub(crate) fn likeness(one: &str, other: &str) -> f64 {
    strsim::jaro_winkler(&one.to_lowercase(), &other.to_lowercase())
}

/// Whether a name with this likeness is worth offering.
pub(crate) fn is_alike(likeness: f64) -> bool {
    likeness >= ALIKE
}

/// Those of `known` that are similar to `name`, the most similar first, at most `most`.
pub(crate) fn most<'a>(name: &str, known: impl Iterator<Item = &'a str>, most: usize) -> Vec<&'a str> {
    // No field has a longer name, and comparing takes time that grows with the square of the length.
    let name: String = name.chars().take(64).collect();
    let mut alike: Vec<(f64, &str)> =
        known.map(|known| (likeness(&name, known), known)).filter(|(likeness, _)| is_alike(*likeness)).collect();
    alike.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    alike.into_iter().map(|(_, known)| known).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: [&str; 6] = ["addresses", "gateways", "interface", "targets", "endPort", "targetPort"];

    #[test]
    fn a_misspelt_name_finds_the_one_that_was_meant() {
        let first = |name| most(name, FIELDS.into_iter(), 1);
        assert_eq!(first("target"), ["targets"]);
        assert_eq!(first("adress"), ["addresses"]);
        assert_eq!(first("endport"), ["endPort"]);
        assert_eq!(first("gateway"), ["gateways"]);
        assert_eq!(first("protocol"), [] as [&str; 0]);
        assert_eq!(first(""), [] as [&str; 0]);
    }
}
