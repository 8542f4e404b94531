//! The status of every forward as a table for a terminal, as `kubectl get` prints one.

use comfy_table::{ColumnConstraint, ContentArrangement, Row, Table, presets};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::Shown;
use crate::api::{PortForwardStatus, Role, ShownPorts};

/// The maximum width of a message, in characters. The status file contains the whole text.
const MESSAGE_WIDTH: usize = 100;

/// The position of the column with the ports.
const PORTS: usize = 3;

/// The conditions, in the order in which a forward meets them.
const CONDITIONS: [&str; 3] = ["Accepted", "Programmed", "Ready"];

/// The minimum width of a message, in characters, on a narrow terminal.
const LEAST_MESSAGE_WIDTH: usize = 20;

/// One line for each object, in the given order. Reason and message are those of the first condition that is not `True`,
/// otherwise of `Ready`. Messages are cut to 100 characters. Ends with a newline.
#[must_use]
pub fn table(objects: &[Shown]) -> String {
    draw(objects, Ports::Hidden, MESSAGE_WIDTH)
}

/// As [`table`], for a terminal with this number of columns: messages are cut so that each line fits, but not below 20
/// characters.
#[must_use]
pub fn table_within(objects: &[Shown], columns: usize) -> String {
    let others = draw(objects, Ports::Hidden, 0).lines().map(|line| line.chars().count()).max().unwrap_or(0);
    draw(objects, Ports::Hidden, columns.saturating_sub(others).clamp(LEAST_MESSAGE_WIDTH, MESSAGE_WIDTH))
}

/// The same with the ports of each forward, as `kubectl get` shows them, and with whole messages.
#[must_use]
pub fn wide_table(objects: &[Shown]) -> String {
    draw(objects, Ports::Shown, usize::MAX)
}

/// Whether the table has a column with the ports. Without it, the other columns already need more than 80 characters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ports {
    Shown,
    Hidden,
}

/// The table with messages of at most `width` characters.
fn draw(objects: &[Shown], ports: Ports, width: usize) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["NAMESPACE", "NAME", "NODE(ROLE)", "PORTS", "ACCEPTED", "PROGRAMMED", "READY", "REASON", "MESSAGE"]);
    table.add_rows(objects.iter().map(|object| row(object, width)));
    if let Some(column) = table.column_mut(PORTS).filter(|_| ports == Ports::Hidden) {
        column.set_constraint(ColumnConstraint::Hidden);
    }
    // Three spaces between the columns and none before the first.
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.trim_fmt() + "\n"
}

fn row(Shown { object, status }: &Shown, width: usize) -> Row {
    let none = PortForwardStatus::default();
    let status = status.as_deref().unwrap_or(&none);
    let [accepted, programmed, ready] = CONDITIONS.map(|kind| find(status, kind));
    let telling = [accepted, programmed, ready].into_iter().flatten().find(|condition| condition.status != "True").or(ready);
    let message = plain(telling.map_or("", |condition| &condition.message));
    let state = |condition: Option<&Condition>| condition.map_or("Unknown", |condition| &condition.status).to_owned();
    Row::from([
        plain(object.metadata.namespace.as_deref().unwrap_or_default()),
        plain(object.metadata.name.as_deref().unwrap_or_default()),
        plain(&node(status)),
        ShownPorts::of(&object.spec).ports.unwrap_or_else(|| "<none>".to_owned()),
        state(accepted),
        state(programmed),
        state(ready),
        plain(telling.map_or("Pending", |condition| &condition.reason)),
        shortened(&message, width),
    ])
}

fn find<'a>(status: &'a PortForwardStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

/// The one node and its role; of several nodes the active one.
fn node(status: &PortForwardStatus) -> String {
    match (&status.nodes[..], &status.active_node) {
        ([only], _) => format!("{}({})", only.node_name, role(only.role)),
        (_, Some(active)) => format!("{active}({})", role(Role::Active)),
        (_, None) => "<none>".to_owned(),
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Active => "Active",
        Role::Standby => "Standby",
    }
}

/// One line, without anything that a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).take(width).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::publish::file::tests::{condition, object};

    use super::*;

    #[test]
    fn each_forward_is_a_line_with_the_condition_that_tells_most() {
        let objects = [
            object(
                "web",
                &[
                    condition("Accepted", "True", "Accepted", ""),
                    condition("Programmed", "True", "Programmed", ""),
                    condition("Ready", "True", "Ready", "Traffic can flow."),
                ],
            ),
            object(
                "conflicting",
                &[
                    condition("Accepted", "False", "Conflict", "default/web\nhas it\u{1b}[2J"),
                    condition("Programmed", "False", "NotAccepted", "no"),
                    condition("Ready", "False", "NotAccepted", "no"),
                ],
            ),
            object(
                "slow",
                &[
                    condition("Accepted", "True", "Accepted", ""),
                    condition("Programmed", "True", "Programmed", ""),
                    condition("Ready", "False", "NoRoute", &"x".repeat(101)),
                ],
            ),
            Shown { status: None, ..object("unseen", &[]) },
        ];
        let long = "x".repeat(99) + "…";
        let wanted = format!(
            "\
NAMESPACE   NAME          NODE(ROLE)        ACCEPTED   PROGRAMMED   READY     REASON     MESSAGE
default     web           proxy-1(Active)   True       True         True      Ready      Traffic can flow.
default     conflicting   proxy-1(Active)   False      False        False     Conflict   default/web has it [2J
default     slow          proxy-1(Active)   True       True         False     NoRoute    {long}
default     unseen        <none>            Unknown    Unknown      Unknown   Pending
"
        );
        assert_eq!(table(&objects), wanted);
        let wide = wanted.replace(&long, &"x".repeat(101)).replace("NODE(ROLE)        ", "NODE(ROLE)        PORTS    ");
        let wide =
            wide.replace("(Active)   ", "(Active)   TCP 80   ").replace("<none>            ", "<none>            TCP 80   ");
        assert_eq!(wide_table(&objects), wide, "wide has the ports and the whole message");
    }

    #[test]
    fn of_several_nodes_the_active_one_is_named() {
        let mut object = object("web", &[]);
        let status = Arc::make_mut(object.status.as_mut().unwrap());
        let mut other = status.nodes[0].clone();
        other.node_name = "proxy-2".into();
        other.role = Role::Standby;
        status.nodes.push(other);
        assert_eq!(node(status), "<none>");
        status.active_node = Some("proxy-1".into());
        assert_eq!(node(status), "proxy-1(Active)");
        status.nodes.remove(0);
        assert_eq!(node(status), "proxy-2(Standby)");
    }
}
