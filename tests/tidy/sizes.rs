//! Files, functions and lists of parameters stay short.

use crate::source::SOURCE;

/// Lines of a file without its tests.
const FILE_LINES_MAX: usize = 450;

/// Between the braces, without comments.
const FUNCTION_LINES_MAX: usize = 70;

const PARAMETERS_MAX: usize = 5;

#[test]
fn files_can_be_read_in_one_go() {
    let long = SOURCE.files.iter().filter(|file| file.lines > FILE_LINES_MAX);
    let long: Vec<_> = long.map(|file| format!("{}: {} lines", file.name, file.lines)).collect();
    assert!(long.is_empty(), "longer than {FILE_LINES_MAX} lines: {long:#?}");
}

#[test]
fn functions_fit_on_a_screen() {
    let mut wrong = Vec::new();
    for file in &SOURCE.files {
        for function in &file.functions {
            let place = format!("{}:{} {}", file.name, function.line, function.name);
            let comments = file.comments.iter().filter(|(line, _)| function.body.contains(line)).count();
            let lines = function.body.len() - comments;
            if lines > FUNCTION_LINES_MAX {
                wrong.push(format!("{place}: {lines} lines, {FUNCTION_LINES_MAX} at most"));
            }
            if function.parameters > PARAMETERS_MAX {
                wrong.push(format!("{place}: {} parameters, {PARAMETERS_MAX} at most", function.parameters));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
