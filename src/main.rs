//! The binary: everything is in the library, which the tests and benchmarks share.

use std::process::ExitCode;

fn main() -> ExitCode {
    lmswarm::main()
}
