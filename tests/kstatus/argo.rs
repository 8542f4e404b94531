//! The health of an object in Argo CD. Argo CD handles deletion itself; otherwise it runs the health script, here in a real Lua
//! 5.1. Argo CD gives a script the base and table libraries; here it gets only the base library.

use mlua::{Lua, LuaOptions, StdLib, Table};
use serde_json::Value;

/// The health of an object in Argo CD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// The state is as wanted.
    Healthy,
    /// Not there yet, but without a failure.
    Progressing,
    /// A user has to act.
    Degraded,
    /// Disabled.
    Suspended,
}

impl Health {
    /// Parses a word of a script or of `health_test.yaml`.
    pub(crate) fn read(word: &str) -> Self {
        match word {
            "Healthy" => Self::Healthy,
            "Progressing" => Self::Progressing,
            "Degraded" => Self::Degraded,
            "Suspended" => Self::Suspended,
            other => panic!("{other:?} is no health that a script of ours gives"),
        }
    }
}

/// The health of an object and its message.
pub(crate) fn health(script: &str, object: &Value) -> (Health, String) {
    if object["metadata"]["deletionTimestamp"].is_string() {
        return (Health::Progressing, "Pending deletion".to_owned());
    }
    run(script, object)
}

/// The result of the script alone.
pub(crate) fn run(script: &str, object: &Value) -> (Health, String) {
    let lua = Lua::new_with(StdLib::NONE, LuaOptions::default()).expect("a Lua without libraries");
    lua.globals().set("obj", value(&lua, object)).expect("the object is a table");
    let answer: Table = lua.load(script).eval().unwrap_or_else(|error| panic!("{error}\n{object:#}"));
    let field = |name: &str| answer.get::<Option<String>>(name).expect("status and message are texts").unwrap_or_default();
    (Health::read(&field("status")), field("message"))
}

/// Null becomes absent, and every number becomes a double.
fn value(lua: &Lua, json: &Value) -> mlua::Value {
    match json {
        Value::Null => mlua::Value::Nil,
        Value::Bool(truth) => mlua::Value::Boolean(*truth),
        Value::Number(number) => mlua::Value::Number(number.as_f64().expect("no number here is too large for a double")),
        Value::String(text) => mlua::Value::String(lua.create_string(text).expect("there is memory for a text")),
        Value::Array(items) => {
            let table = lua.create_sequence_from(items.iter().map(|item| value(lua, item)));
            mlua::Value::Table(table.expect("there is memory for a table"))
        }
        Value::Object(fields) => {
            let table = lua.create_table_from(fields.iter().map(|(name, field)| (name.as_str(), value(lua, field))));
            mlua::Value::Table(table.expect("there is memory for a table"))
        }
    }
}
