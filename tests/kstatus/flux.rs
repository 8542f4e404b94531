//! The health of an object in Flux by `healthCheckExprs` of a Kustomization: first the generation, then the expressions in the
//! order inProgress, failed, current. The first expression that is true decides; if none is true, Flux waits.

use std::collections::HashMap;

use cel::{Context, Program, Value as Cel};
use serde_json::Value;

use crate::rules::Kstatus;

/// The file with our expressions.
pub(crate) const EXPRESSIONS: &str = "deploy/gitops/flux/forwards-by-expressions.yaml";

/// The expressions for one kind.
pub(crate) struct Checks {
    ordered: Vec<(Kstatus, Program)>,
}

/// The expressions for our kind, from the only Kustomization that has any.
pub(crate) fn checks(documents: &[Value]) -> Checks {
    let all = documents.iter().flat_map(|document| document["spec"]["healthCheckExprs"].as_array().into_iter().flatten());
    let ours: Vec<&Value> = all.filter(|check| check["kind"] == "PortForward").collect();
    assert!(ours.len() == 1 && ours[0]["apiVersion"] == "portforward.dev/v1alpha1", "{ours:#?}");
    let order = [("inProgress", Kstatus::InProgress), ("failed", Kstatus::Failed), ("current", Kstatus::Current)];
    let compiled = order.map(|(field, said)| {
        let text = ours[0][field].as_str().unwrap_or_else(|| panic!("there is no expression {field}"));
        (said, Program::compile(text).unwrap_or_else(|error| panic!("{field}: {error}")))
    });
    Checks { ordered: compiled.into() }
}

impl Checks {
    /// The result for an object.
    pub(crate) fn judge(&self, object: &Value) -> Kstatus {
        let (generation, observed) = (&object["metadata"]["generation"], &object["status"]["observedGeneration"]);
        if observed.is_i64() && generation.is_i64() && observed != generation {
            return Kstatus::InProgress;
        }
        self.first(object)
    }

    /// The result of the expressions alone.
    pub(crate) fn first(&self, object: &Value) -> Kstatus {
        let mut context = Context::default();
        for (name, field) in object.as_object().expect("an object is one") {
            context.add_variable_from_value(name.as_str(), value(field));
        }
        let holds = |program: &Program| match program.execute(&context) {
            Ok(Cel::Bool(truth)) => truth,
            other => panic!("{other:?} of {object:#}"),
        };
        self.ordered.iter().find(|(_, program)| holds(program)).map_or(Kstatus::InProgress, |(said, _)| *said)
    }
}

/// The value as Flux passes it: every integer is an int.
fn value(json: &Value) -> Cel {
    match json {
        Value::Null => Cel::Null,
        Value::Bool(truth) => Cel::Bool(*truth),
        Value::Number(number) => number.as_i64().map_or_else(|| Cel::Float(number.as_f64().unwrap_or_default()), Cel::Int),
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => Cel::List(items.iter().map(value).collect::<Vec<_>>().into()),
        Value::Object(fields) => {
            fields.iter().map(|(name, field)| (name.clone(), value(field))).collect::<HashMap<_, _>>().into()
        }
    }
}
