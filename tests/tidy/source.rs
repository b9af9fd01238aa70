//! The source of gema without its tests: modules and files, found as the compiler finds them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::ops::RangeInclusive;
use std::path::Path;
use std::path::PathBuf;
use std::sync::LazyLock;

use crate::collect::Collector;

/// `["registry", "channels"]` of `src/registry/channels.rs`; empty for `src/lib.rs`, `["main"]` for `src/main.rs`.
pub(crate) type ModulePath = Vec<String>;

/// Each test reads the same parsed source.
pub(crate) static SOURCE: LazyLock<Source> = LazyLock::new(Source::read);

#[derive(Default)]
pub(crate) struct Source {
    pub(crate) modules: BTreeMap<ModulePath, Module>,
    pub(crate) files: Vec<File>,
    /// Files that only tests are compiled from.
    test_files: BTreeSet<PathBuf>,
}

/// What resolving a path in this module takes.
#[derive(Default)]
pub(crate) struct Module {
    pub(crate) file: String,
    pub(crate) children: BTreeSet<String>,
    /// Names that `use` brings into scope, and the paths that they stand for.
    pub(crate) imports: Vec<(String, UsedPath)>,
    /// Modules of which `use` brings everything into scope.
    pub(crate) globs: Vec<UsedPath>,
    /// Every other path: in expressions, types, patterns, attributes and macros.
    pub(crate) paths: Vec<UsedPath>,
}

/// A path as it is written: `["super", "tree", "check"]`.
#[derive(Clone)]
pub(crate) struct UsedPath {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
}

/// What the sizes and words of a file are checked by.
#[derive(Default)]
pub(crate) struct File {
    pub(crate) name: String,
    /// Without those of test modules.
    pub(crate) lines: usize,
    pub(crate) has_module_comment: bool,
    pub(crate) functions: Vec<Function>,
    /// Names of modules, types, functions, fields, variants and constants.
    pub(crate) names: Vec<Name>,
    /// Lines of comments outside of test modules, with their numbers.
    pub(crate) comments: Vec<(usize, String)>,
}

pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// The lines between its braces.
    pub(crate) body: Range<usize>,
    /// `self` included. None for a trait's method where it is implemented: the trait has chosen them.
    pub(crate) parameters: usize,
}

pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) is_type: bool,
    pub(crate) line: usize,
}

impl Source {
    fn read() -> Self {
        let mut source = Self::default();
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        source.read_file(&src.join("lib.rs"), &src, &[]);
        source.read_file(&src.join("main.rs"), &src, &["main".to_owned()]);
        assert!(source.files.len() > 20, "the sources were not found");
        source
    }

    /// Reads a module's file and those of its children, which are in `folder`.
    fn read_file(&mut self, path: &Path, folder: &Path, module: &[String]) {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = name_of(path);
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut collector = Collector::new(&name, module.to_vec());
        collector.file(&parsed);
        let is_test = |line: &usize| collector.test_lines.iter().any(|lines| lines.contains(line));
        let all_lines = text.lines().count();
        let file = File {
            lines: all_lines - (1..=all_lines).filter(is_test).count(),
            comments: comment_lines(&text, &collector.literal_lines).filter(|(line, _)| !is_test(line)).collect(),
            name,
            ..collector.file
        };
        self.files.push(file);
        self.test_files.extend(collector.test_files.iter().map(|file| path.with_file_name(file)));
        let children: Vec<ModulePath> = collector.child_files;
        self.modules.extend(collector.modules);
        for child in children {
            let inner = child[module.len()..].iter().collect::<PathBuf>();
            // The children of `main.rs` would stand beside those of `lib.rs`.
            self.read_file(&folder.join(&inner).with_extension("rs"), &folder.join(&inner), &child);
        }
    }

    /// Files that no `mod` names: the compiler does not see them, and neither would the checks.
    fn stray_files(&self) -> Vec<String> {
        let read: BTreeSet<&str> = self.files.iter().map(|file| file.name.as_str()).collect();
        let mut stray = Vec::new();
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs")
                    && !read.contains(name_of(&path).as_str())
                    && !self.test_files.contains(&path)
                {
                    stray.push(name_of(&path));
                }
            }
        }
        stray
    }
}

/// `src/registry/channels.rs`.
fn name_of(path: &Path) -> String {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string()
}

/// Lines that begin a comment, except where they are inside of a string.
fn comment_lines(text: &str, literals: &[RangeInclusive<usize>]) -> impl Iterator<Item = (usize, String)> {
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim().to_owned()));
    let is_comment = move |number: usize, line: &str| {
        line.starts_with("//") && !literals.iter().any(|inside| inside.contains(&number))
    };
    lines.filter(move |(number, line)| is_comment(*number, line))
}

#[test]
fn every_file_of_the_source_is_checked() {
    let stray = SOURCE.stray_files();
    assert!(stray.is_empty(), "no `mod` names them: {stray:#?}");
}
