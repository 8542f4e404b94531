//! `health`: asks the agent of this node whether it is alive or ready, for the probes of the kubelet.
//!
//! Starts no thread and no runtime, because the kubelet runs it every few seconds.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use super::Exit;
use super::exit::print;
use super::options::STATE_DIR;
use crate::metrics::{HEALTH_SOCKET, ask_health};

/// The time limit for an answer. The probes of the chart allow 10 seconds for the whole command.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Question {
    /// Whether the sync loop makes progress
    Live,
    /// Whether a sync with the complete set of forwards has applied everything
    Ready,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Needs root, because only root can enter the state directory.\n\nExit status:\n  0  yes\n  1  no, or no agent answers; the message says why"
)]
pub(super) struct HealthOptions {
    /// What to ask the agent
    #[arg(value_enum, value_name = "live|ready")]
    question: Question,
    /// State directory of the agent
    #[arg(long, default_value = STATE_DIR, value_name = "DIR", env = "PORTFORWARD_STATE_DIR")]
    state_dir: PathBuf,
}

pub(super) fn run(options: &HealthOptions) -> anyhow::Result<Exit> {
    let page = match options.question {
        Question::Live => "/livez",
        Question::Ready => "/readyz",
    };
    let answer = ask_health(&options.state_dir, page, ANSWER);
    let socket = options.state_dir.join(HEALTH_SOCKET);
    let socket = socket.display();
    match answer {
        Ok((200, said)) => print(&format!("{said}\n")).map(|()| Exit::Done),
        Ok((_, said)) => bail!("{said}"),
        Err(error) => {
            let reason = match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                    format!("no agent runs with this state directory: nothing listens on {socket}")
                }
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    format!("the agent did not answer on {socket} within {} s", ANSWER.as_secs())
                }
                ErrorKind::PermissionDenied => format!("{socket} can be used by root only"),
                _ => format!("{socket} cannot be used"),
            };
            Err(error).context(reason)
        }
    }
}
