//! Checks the rules that the compiler does not know: rows, circles, sizes and words. It parses `src`, so comments,
//! strings and renames do not mislead it. Modules for tests are left out.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere, its helpers included")]

mod circles;
mod collect;
mod comments;
mod resolve;
mod rows;
mod sizes;
mod source;
mod words;
