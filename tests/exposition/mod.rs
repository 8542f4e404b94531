//! A strict parser for the text format of `OpenMetrics` 1.0.0. A scraper accepts everything that it accepts.
#![allow(dead_code, reason = "every test binary uses only a part of it")]

pub(crate) mod scrape;
pub(crate) mod whole;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

/// One metric family.
#[derive(Debug)]
pub(crate) struct Family {
    /// Its name, without the suffixes of its samples.
    pub(crate) name: String,
    /// Its type.
    pub(crate) kind: String,
    /// Its help text.
    pub(crate) help: String,
    /// Its samples, in order.
    pub(crate) samples: Vec<Sample>,
}

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Its name, with the suffix.
    pub(crate) name: String,
    /// Its labels, in order.
    pub(crate) labels: Vec<(String, String)>,
    /// Its value.
    pub(crate) value: f64,
}

impl Sample {
    /// The identity of the series: its name and labels.
    pub(crate) fn series(&self) -> String {
        format!("{}{:?}", self.name, self.labels)
    }
}

impl Family {
    /// Whether its samples may only increase while the program runs.
    pub(crate) fn only_rises(&self) -> bool {
        matches!(self.kind.as_str(), "counter" | "histogram")
    }

    /// The name of a sample, as users look for it.
    pub(crate) fn shown(&self) -> String {
        match self.kind.as_str() {
            "counter" => format!("{}_total", self.name),
            "info" => format!("{}_info", self.name),
            _ => self.name.clone(),
        }
    }

    fn suffixes(&self) -> &'static [&'static str] {
        match self.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            other => panic!("{}: the type {other} is not used here", self.name),
        }
    }
}

/// Parses an exposition. Panics with the line that violates the format.
pub(crate) fn parse(text: &str) -> Vec<Family> {
    let body = text.strip_suffix("# EOF\n").expect("an exposition ends with # EOF");
    let mut families: Vec<Family> = Vec::new();
    for line in body.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "HELP", name, help] => {
                assert!(families.iter().all(|family| family.name != *name), "twice: {line}");
                assert!(NAME.is_match(name) && !help.is_empty(), "{line}");
                let (name, help) = ((*name).to_owned(), (*help).to_owned());
                families.push(Family { name, kind: String::new(), help, samples: Vec::new() });
            }
            ["#", "TYPE", name, kind] => {
                let family = open(&mut families, name, line);
                assert!(family.kind.is_empty(), "twice: {line}");
                (*kind).clone_into(&mut family.kind);
            }
            ["#", "UNIT", name, unit] => {
                open(&mut families, name, line);
                assert!(name.ends_with(&format!("_{unit}")), "a unit is part of the name: {line}");
            }
            _ => {
                let family = families.last_mut().unwrap_or_else(|| panic!("a sample before any family: {line}"));
                family.samples.push(sample(line));
            }
        }
    }
    let mut series = BTreeSet::new();
    for family in &families {
        check(family);
        assert!(family.samples.iter().all(|sample| series.insert(sample.series())), "{} has a series twice", family.name);
    }
    families
}

/// The family that was named last and has no sample yet.
fn open<'a>(families: &'a mut [Family], name: &str, line: &str) -> &'a mut Family {
    families.last_mut().filter(|family| family.name == name && family.samples.is_empty()).unwrap_or_else(|| panic!("{line}"))
}

static NAME: LazyLock<Regex> = LazyLock::new(|| Regex::new("^[a-zA-Z_:][a-zA-Z0-9_:]*$").unwrap());
static LABEL: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#"([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\[\\"n])*)""#).unwrap());
static SAMPLE: LazyLock<Regex> = LazyLock::new(|| {
    let label = LABEL.as_str();
    Regex::new(&format!(r"^(?<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{{(?<labels>{label}(?:,{label})*)\}})? (?<value>\S+)$")).unwrap()
});

fn sample(line: &str) -> Sample {
    let found = SAMPLE.captures(line).unwrap_or_else(|| panic!("not a sample: {line:?}"));
    let labels = found.name("labels").map_or("", |labels| labels.as_str());
    let labels: Vec<(String, String)> =
        LABEL.captures_iter(labels).map(|label| (label[1].to_owned(), label[2].to_owned())).collect();
    let names: BTreeSet<&String> = labels.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), labels.len(), "a label twice: {line}");
    let value = match &found["value"] {
        "+Inf" | "-Inf" | "NaN" => panic!("no number: {line}"),
        value => value.parse().unwrap_or_else(|error| panic!("{line}: {error}")),
    };
    Sample { name: found["name"].to_owned(), labels, value }
}

fn check(family: &Family) {
    let Family { name, samples, .. } = family;
    assert!(!samples.is_empty(), "{name} has no sample");
    assert!(family.suffixes().iter().all(|suffix| suffix.is_empty() || !name.ends_with(suffix)), "{name} holds a suffix");
    for sample in samples {
        let suffix = sample.name.strip_prefix(name.as_str()).unwrap_or_else(|| panic!("{} is not of {name}", sample.name));
        assert!(family.suffixes().contains(&suffix), "{} is not of a {}", sample.name, family.kind);
        assert!(!family.only_rises() || sample.value >= 0.0, "{sample:?}");
        assert!(family.kind != "info" || (sample.value - 1.0).abs() < f64::EPSILON, "{sample:?}");
    }
    if family.kind == "histogram" {
        check_buckets(family);
    }
}

/// Checks that each bucket includes the smaller ones and that the last one includes everything (`le="+Inf"`), for each set of
/// other labels.
fn check_buckets(family: &Family) {
    let apart = |sample: &Sample| sample.labels.iter().filter(|(name, _)| name != "le").cloned().collect::<Vec<_>>();
    for labels in family.samples.iter().map(apart).collect::<BTreeSet<_>>() {
        check_set(family, &family.samples.iter().filter(|sample| apart(sample) == labels).collect::<Vec<_>>());
    }
}

fn check_set(family: &Family, samples: &[&Sample]) {
    let of = |suffix: &str| {
        let name = format!("{}{suffix}", family.name);
        samples.iter().copied().filter(move |sample| sample.name == name)
    };
    let buckets: Vec<&Sample> = of("_bucket").collect();
    assert!(buckets.windows(2).all(|pair| pair[0].value <= pair[1].value), "{buckets:?}");
    let last = buckets.last().expect("a histogram has buckets");
    assert!(last.labels.contains(&("le".to_owned(), "+Inf".to_owned())), "{last:?}");
    assert_eq!(of("_count").map(|count| count.value).collect::<Vec<_>>(), [last.value]);
    assert_eq!(of("_sum").count(), 1);
}

/// The value of a series, such as `x_total{what="rules"}`, written as in the exposition.
pub(crate) fn value(text: &str, series: &str) -> f64 {
    let wanted = sample(&format!("{series} 0"));
    let found = parse(text).into_iter().flat_map(|family| family.samples).find(|sample| sample.series() == wanted.series());
    found.unwrap_or_else(|| panic!("no {series} in\n{text}")).value
}
