//! Removes a plane that is never dropped: one in a `static`, or one of a test process that was killed.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use std::os::unix::process::CommandExt as _;

use crate::bed::netns::Netns;

/// Waits for the end of its input, which comes when the test process ends for any reason. Then cleans up.
const SCRIPT: &str = r#"
cat >/dev/null
for pid in $(ip netns pids "$1" 2>/dev/null); do kill -KILL "$pid"; done
ip netns delete "$1" 2>/dev/null
rm -rf -- "$2"
"#;

/// A process that runs after the end of this one, until it has removed a namespace, all processes in it, and a folder.
#[derive(Debug)]
pub(crate) struct Guard {
    process: Child,
}

impl Guard {
    /// Starts a guard for a namespace and a folder.
    pub(crate) fn over(netns: &Netns, folder: &Path) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "guard", netns.name()]).arg(folder);
        // It has its own process group, so that an interrupt from the terminal ends the tests but not their guard.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { process: command.spawn().expect("there is a shell") }
    }
}

impl Drop for Guard {
    /// Ends the guard's input and waits until it has cleaned up.
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
