//! The label selector of the forwards that this agent follows, in the syntax of `kubectl get -l`.
//!
//! Reads the text and names the pool of agents with the same selector. Asks nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use kube::core::{Expression, Selector, SelectorExt};
use sha2::{Digest, Sha256};

use crate::forward::selector::{is_label_key, is_label_value};

/// Which forwards an agent follows. Without requirements: all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardSelector(Selector);

/// Why a text is no label selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Something is missing or is at the wrong place.
    #[error("{expected} is missing {place}; write it as for kubectl get -l, such as pool=edge or 'pool in (edge,core),!test'")]
    Syntax {
        /// What is missing.
        expected: &'static str,
        /// Where.
        place: String,
    },
    /// A key is not valid.
    #[error(
        "{0:?} is not the key of a label: a key is a name of at most 63 letters, digits, '-', '_' and '.', optionally after a DNS name and '/'"
    )]
    Key(String),
    /// A value is not valid.
    #[error("{0:?} is not the value of a label: a value has at most 63 letters, digits, '-', '_' and '.'")]
    Value(String),
    /// The operator compares numbers.
    #[error("{0} is not supported, because labels of forwards are names and not numbers; use =, !=, in or notin")]
    Number(char),
}

impl ForwardSelector {
    /// Whether an object with these labels is selected.
    #[must_use]
    pub fn selects(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        labels.map_or_else(|| self.0.matches(&BTreeMap::new()), |labels| self.0.matches(labels))
    }

    /// Whether every forward is selected.
    #[must_use]
    pub fn selects_all(&self) -> bool {
        self.0.selects_all()
    }

    /// The name of the pool of agents with this selector, as the value of a label; `None` for the agents that follow all forwards.
    pub(super) fn pool(&self) -> Option<String> {
        let digest = || Sha256::digest(self.to_string()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        (!self.selects_all()).then(digest)
    }
}

/// Two selectors with the same requirements have the same text, whatever their order.
impl fmt::Display for ForwardSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The grammar of `labels.Parse` in `k8s.io/apimachinery`: requirements, separated by commas, that must all hold.
impl FromStr for ForwardSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut tokens = Tokens { rest: text };
        let mut requirements = BTreeSet::new();
        if tokens.peek() == Token::End {
            return Ok(Self::default());
        }
        loop {
            requirements.insert(requirement(&mut tokens)?);
            match tokens.next() {
                Token::End => return Ok(Self(requirements.into_iter().collect())),
                Token::Mark(',') => {}
                other => return Err(other.instead_of("a comma")),
            }
        }
    }
}

/// `key`, `!key`, `key=value`, `key==value`, `key!=value`, `key in (values)` or `key notin (values)`.
fn requirement(tokens: &mut Tokens<'_>) -> Result<Expression, SelectorError> {
    if tokens.take('!') {
        return Ok(Expression::DoesNotExist(key(tokens)?));
    }
    let key = key(tokens)?;
    match tokens.peek() {
        Token::End | Token::Mark(',') => Ok(Expression::Exists(key)),
        Token::Mark('=') => {
            tokens.next();
            tokens.take('=');
            Ok(Expression::In(key, [value(tokens)?].into()))
        }
        Token::Mark('!') => {
            tokens.next();
            if !tokens.take('=') {
                return Err(tokens.next().instead_of("= after !"));
            }
            Ok(Expression::NotIn(key, [value(tokens)?].into()))
        }
        Token::Word("in") => Ok(Expression::In(key, values(tokens)?)),
        Token::Word("notin") => Ok(Expression::NotIn(key, values(tokens)?)),
        Token::Mark(sign @ ('<' | '>')) => Err(SelectorError::Number(sign)),
        other @ (Token::Word(_) | Token::Mark(_)) => Err(other.instead_of("an operator (=, !=, in or notin)")),
    }
}

fn key(tokens: &mut Tokens<'_>) -> Result<String, SelectorError> {
    match tokens.next() {
        Token::Word(word) if is_label_key(word) => Ok(word.to_owned()),
        Token::Word(word) => Err(SelectorError::Key(word.to_owned())),
        other @ (Token::Mark(_) | Token::End) => Err(other.instead_of("the key of a label")),
    }
}

/// One value. It may be empty.
fn value(tokens: &mut Tokens<'_>) -> Result<String, SelectorError> {
    let Token::Word(word) = tokens.peek() else { return Ok(String::new()) };
    tokens.next();
    if is_label_value(word) { Ok(word.to_owned()) } else { Err(SelectorError::Value(word.to_owned())) }
}

/// An operator and its values in parentheses.
fn values(tokens: &mut Tokens<'_>) -> Result<BTreeSet<String>, SelectorError> {
    tokens.next();
    if !tokens.take('(') {
        return Err(tokens.next().instead_of("( with the values"));
    }
    let mut values = BTreeSet::new();
    loop {
        values.insert(value(tokens)?);
        match tokens.next() {
            Token::Mark(')') => return Ok(values),
            Token::Mark(',') => {}
            other => return Err(other.instead_of("a comma or )")),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A key, a value or an operator.
    Word(&'a str),
    /// A character with a meaning.
    Mark(char),
    /// The end of the text.
    End,
}

impl Token<'_> {
    fn instead_of(self, expected: &'static str) -> SelectorError {
        let place = match self {
            Token::Word(word) => format!("before {word:?}"),
            Token::Mark(mark) => format!("before {:?}", mark.to_string()),
            Token::End => "at the end".to_owned(),
        };
        SelectorError::Syntax { expected, place }
    }
}

struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    fn peek(&self) -> Token<'a> {
        Tokens { rest: self.rest }.next()
    }

    fn next(&mut self) -> Token<'a> {
        let is_mark = |character: char| "=!(),<>".contains(character);
        let is_space = |character: char| " \t\r\n".contains(character);
        self.rest = self.rest.trim_start_matches(is_space);
        let Some(first) = self.rest.chars().next() else { return Token::End };
        if is_mark(first) {
            self.rest = &self.rest[first.len_utf8()..];
            return Token::Mark(first);
        }
        let end = self.rest.find(|character| is_mark(character) || is_space(character)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Token::Word(word)
    }

    /// Takes this mark if it is the next token.
    fn take(&mut self, mark: char) -> bool {
        let found = self.peek() == Token::Mark(mark);
        if found {
            self.next();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(text: &str) -> ForwardSelector {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn selects(text: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        selector(text).selects(Some(&labels))
    }

    #[test]
    fn the_syntax_is_that_of_kubectl() {
        let edge = [("pool", "edge")];
        for text in [
            "",
            " ",
            "pool=edge",
            "pool==edge",
            " pool = edge ",
            "pool",
            "pool!=core",
            "!test",
            "test!=yes",
            "pool in (edge)",
            "pool in (core, edge)",
            "pool in(core,edge)",
            "pool notin (core)",
            "test notin (a,b)",
            "pool,!test",
            "pool=edge,pool!=core , pool",
            "!example.org/pool",
        ] {
            assert!(selects(text, &edge), "{text}");
        }
        for text in ["pool=core", "pool=", "!pool", "pool!=edge", "test", "pool in (core)", "pool notin (edge,core)", "pool,test"]
        {
            assert!(!selects(text, &edge), "{text}");
        }
        assert!(selects("in in (in,notin)", &[("in", "notin")]), "operators are keys and values too");
        assert!(selects("pool=", &[("pool", "")]) && selects("pool in (,a)", &[("pool", "")]), "an empty value");
        assert!(selects("example.org/pool=a_B.c-1", &[("example.org/pool", "a_B.c-1")]));
        assert!(selector("!pool").selects(None) && !selector("pool").selects(None));
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        let refused = |text: &str| text.parse::<ForwardSelector>().unwrap_err().to_string();
        for (text, words) in [
            (",", "the key of a label is missing before \",\""),
            ("pool=edge,", "the key of a label is missing at the end"),
            ("pool=edge core", "a comma is missing before \"core\""),
            ("pool edge", "an operator (=, !=, in or notin) is missing before \"edge\""),
            ("pool!edge", "= after ! is missing before \"edge\""),
            ("pool in edge", "( with the values is missing before \"edge\""),
            ("pool in (edge", "a comma or ) is missing at the end"),
            ("pool in (edge core)", "a comma or ) is missing before \"core\""),
            ("pool=edge=core", "a comma is missing before \"=\""),
            ("!", "the key of a label is missing at the end"),
            ("pool>1", "> is not supported"),
            ("-pool", "\"-pool\" is not the key of a label"),
            ("a/b/c", "\"a/b/c\" is not the key"),
            ("pool=a/b", "\"a/b\" is not the value of a label"),
            ("pool in (ä)", "\"ä\" is not the value"),
        ] {
            assert!(refused(text).contains(words), "{text}: {}", refused(text));
        }
    }

    #[test]
    fn selectors_with_the_same_requirements_are_one_pool() {
        let pool = |text: &str| selector(text).pool();
        assert_eq!(selector("b!=2, a==1").to_string(), "a in (1),b notin (2)");
        assert_eq!(pool("a=1,b!=2"), pool("b notin (2),a in (1),a=1"));
        assert_ne!(pool("a=1"), pool("a=2"));
        assert_eq!(pool("a=1").map(|pool| pool.len()), Some(16));
        assert_eq!(pool(""), None);
        for text in ["a in (1),b notin (2)", "!a,b"] {
            assert_eq!(selector(text).to_string().parse(), Ok(selector(text)), "it reads as it prints");
        }
    }
}
