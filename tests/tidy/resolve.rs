//! Which module a path leads to, through imports, renames and re-exports.

use crate::source::Module;
use crate::source::ModulePath;
use crate::source::SOURCE;
use crate::source::Source;
use crate::source::UsedPath;

/// An import may lead to a further one; a circle of them would not compile.
const IMPORTS_MAX: usize = 16;

/// One module uses another one.
pub(crate) struct Use<'a> {
    pub(crate) from: &'a ModulePath,
    pub(crate) to: ModulePath,
    /// `src/registry/channels.rs:17`.
    pub(crate) place: String,
}

/// Where a path has come to.
struct Reached {
    module: ModulePath,
    /// It is an item of the module, so what follows are its variants or functions.
    is_item: bool,
}

impl Source {
    /// Every use of one module by another one.
    pub(crate) fn uses(&self) -> impl Iterator<Item = Use<'_>> {
        self.modules.iter().flat_map(move |(from, module)| {
            let imports = module.imports.iter().map(|(_, path)| path);
            let paths = imports.chain(&module.globs).chain(&module.paths);
            paths.filter_map(move |path| {
                let to = self.resolve(from, &path.segments, 0)?.module;
                (to != *from).then(|| Use { from, to, place: place(module, path) })
            })
        })
    }

    /// Where `path`, as written in `module`, leads to; `None` if that is not in this crate.
    fn resolve(&self, module: &ModulePath, path: &[String], imports: usize) -> Option<Reached> {
        let (first, rest) = path.split_first()?;
        let in_main = module.first().is_some_and(|name| name == "main");
        let mut reached = match first.as_str() {
            "crate" if in_main => Reached::module(vec!["main".to_owned()]),
            "crate" => Reached::module(Vec::new()),
            "gema" if in_main => Reached::module(Vec::new()),
            "self" => Reached::module(module.clone()),
            "super" => Reached::module(parent(module)?),
            name => self.find(module, name, imports)?,
        };
        for segment in rest {
            if reached.is_item {
                break;
            }
            reached = match segment.as_str() {
                "self" => reached,
                "super" => Reached::module(parent(&reached.module)?),
                name => self
                    .find(&reached.module, name, imports)
                    .unwrap_or(Reached { module: reached.module, is_item: true }),
            };
        }
        Some(reached)
    }

    /// What `name` stands for in `module`, unless it is defined right there or comes from another crate.
    fn find(&self, module: &ModulePath, name: &str, imports: usize) -> Option<Reached> {
        let scope = self.modules.get(module)?;
        if scope.children.contains(name) {
            let child = module.iter().cloned().chain([name.to_owned()]).collect();
            return Some(Reached::module(child));
        }
        if imports == IMPORTS_MAX {
            return None;
        }
        let mut named = scope.imports.iter().filter(|(own, path)| own == name && path.segments != [name]);
        named.find_map(|(_, path)| self.resolve(module, &path.segments, imports + 1))
    }
}

impl Reached {
    fn module(module: ModulePath) -> Self {
        Self { module, is_item: false }
    }
}

fn parent(module: &ModulePath) -> Option<ModulePath> {
    module.split_last().map(|(_, parent)| parent.to_vec())
}

fn place(module: &Module, path: &UsedPath) -> String {
    format!("{}:{}", module.file, path.line)
}

/// Nobody sees what such an import uses, the checks included.
#[test]
fn own_modules_are_not_imported_by_a_star() {
    let stars = SOURCE.modules.iter().flat_map(|(path, module)| {
        let own = module.globs.iter().filter(|star| SOURCE.resolve(path, &star.segments, 0).is_some());
        own.map(|star| place(module, star))
    });
    let stars: Vec<_> = stars.collect();
    assert!(stars.is_empty(), "{stars:#?}");
}
