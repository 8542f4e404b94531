//! The program `portforward-operator`.

use portforward_operator::cli::{self, Exit};

fn main() -> Exit {
    cli::main()
}
