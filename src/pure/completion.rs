//! Completing a MODEL: what is added to the completions that clap makes.
