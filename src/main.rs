//! The program `portforward-operator`.

use portforward_operator::cli::{self, Exit};
use tikv_jemallocator::Jemalloc;

/// The allocator of the C library returns little of what a large set needed for a moment. The settings are in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> Exit {
    cli::main()
}
