//! Walks the syntax of one file and notes down what the checks ask for.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use proc_macro2::TokenStream;
use proc_macro2::TokenTree;
use syn::Attribute;
use syn::Expr;
use syn::Ident;
use syn::ImplItem;
use syn::Item;
use syn::Lit;
use syn::Meta;
use syn::Signature;
use syn::UseTree;
use syn::spanned::Spanned;
use syn::visit;
use syn::visit::Visit;

use crate::source::File;
use crate::source::Function;
use crate::source::Module;
use crate::source::ModulePath;
use crate::source::Name;
use crate::source::UsedPath;

pub(crate) struct Collector {
    pub(crate) file: File,
    /// That of the file and those that it declares with a body.
    pub(crate) modules: BTreeMap<ModulePath, Module>,
    /// Modules with files of their own.
    pub(crate) child_files: Vec<ModulePath>,
    pub(crate) test_files: Vec<String>,
    /// Lines of items that are compiled for tests only.
    pub(crate) test_lines: Vec<RangeInclusive<usize>>,
    /// Lines that continue a string or another literal.
    pub(crate) literal_lines: Vec<RangeInclusive<usize>>,
    /// The module that is being walked.
    module: ModulePath,
    /// An implementation of a trait is being walked: the trait has chosen the parameters.
    is_of_trait: bool,
    file_name: String,
}

impl Collector {
    pub(crate) fn new(file_name: &str, module: ModulePath) -> Self {
        let mut collector = Self {
            file: File::default(),
            modules: BTreeMap::new(),
            child_files: Vec::new(),
            test_files: Vec::new(),
            test_lines: Vec::new(),
            literal_lines: Vec::new(),
            module,
            is_of_trait: false,
            file_name: file_name.to_owned(),
        };
        collector.current();
        collector
    }

    pub(crate) fn file(&mut self, parsed: &syn::File) {
        self.file.has_module_comment = parsed.attrs.iter().any(|attribute| attribute.path().is_ident("doc"));
        self.visit_file(parsed);
    }

    fn current(&mut self) -> &mut Module {
        let module = self.modules.entry(self.module.clone()).or_default();
        module.file.clone_from(&self.file_name);
        module
    }

    fn name(&mut self, ident: &Ident, is_type: bool) {
        self.file.names.push(Name { text: ident.to_string(), is_type, line: ident.span().start().line });
    }

    fn function(&mut self, signature: &Signature, body: Option<&syn::Block>) {
        self.name(&signature.ident, false);
        let body = body.map(Spanned::span).map_or(0..0, |span| span.start().line + 1..span.end().line);
        self.file.functions.push(Function {
            name: signature.ident.to_string(),
            line: signature.span().start().line,
            body,
            parameters: if self.is_of_trait { 0 } else { signature.inputs.len() },
        });
    }

    /// Notes down the paths of a `use` declaration.
    fn import(&mut self, tree: &UseTree, before: &[String]) {
        let path = |ident: &Ident| {
            let segments = before.iter().cloned().chain([ident.to_string()]).collect();
            UsedPath { segments, line: ident.span().start().line }
        };
        match tree {
            UseTree::Path(tree) => self.import(&tree.tree, &path(&tree.ident).segments),
            UseTree::Name(tree) => {
                // `use a::b::{self}` brings `b` into scope.
                let last = if tree.ident == "self" { before.last().cloned() } else { None };
                let name = last.unwrap_or_else(|| tree.ident.to_string());
                self.current().imports.push((name, path(&tree.ident)));
            }
            UseTree::Rename(tree) => {
                self.current().imports.push((tree.rename.to_string(), path(&tree.ident)));
            }
            UseTree::Glob(tree) => {
                let line = tree.star_token.span().start().line;
                self.current().globs.push(UsedPath { segments: before.to_vec(), line });
            }
            UseTree::Group(tree) => tree.items.iter().for_each(|tree| self.import(tree, before)),
        }
    }

    /// Notes down the paths among the tokens of a macro or an attribute, which have no syntax of their own.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut segments: Vec<Ident> = Vec::new();
        // Colons since the last identifier; other tokens end a path.
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.path_of(&segments);
                        segments.clear();
                    }
                    segments.push(ident);
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !segments.is_empty() => colons += 1,
                other => {
                    self.path_of(&segments);
                    segments.clear();
                    colons = 0;
                    match other {
                        TokenTree::Group(group) => self.tokens(group.stream()),
                        TokenTree::Literal(literal) => {
                            self.literal(literal.span());
                            self.path_in_string(&literal.to_string(), literal.span().start().line);
                        }
                        _ => (),
                    }
                }
            }
        }
        self.path_of(&segments);
    }

    fn path_of(&mut self, segments: &[Ident]) {
        if let [first, _, ..] = segments {
            let line = first.span().start().line;
            let segments = segments.iter().map(Ident::to_string).collect();
            self.current().paths.push(UsedPath { segments, line });
        }
    }

    /// Attributes name functions in strings: `deserialize_with = "values::address"`.
    fn path_in_string(&mut self, literal: &str, line: usize) {
        let Ok(path) = syn::parse_str::<syn::LitStr>(literal).and_then(|text| text.parse::<syn::Path>()) else {
            return;
        };
        if path.segments.len() > 1 {
            let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.current().paths.push(UsedPath { segments, line });
        }
    }

    fn literal(&mut self, span: proc_macro2::Span) {
        if span.end().line > span.start().line {
            self.literal_lines.push(span.start().line + 1..=span.end().line);
        }
    }

    fn child(&mut self, module: &syn::ItemMod) {
        self.name(&module.ident, false);
        let name = module.ident.to_string();
        self.current().children.insert(name.clone());
        self.module.push(name);
        if module.content.is_some() {
            self.current();
            visit::visit_item_mod(self, module);
        } else {
            let has_path = module.attrs.iter().any(|attribute| attribute.path().is_ident("path"));
            assert!(!has_path, "{}: #[path] is for test modules", self.file_name);
            self.child_files.push(self.module.clone());
        }
        self.module.pop();
    }

    /// A module for tests may be in a file of its own, which its `#[path]` names.
    fn test_file(&mut self, item: &Item) {
        let Item::Mod(module) = item else { return };
        for attribute in &module.attrs {
            if let Meta::NameValue(pair) = &attribute.meta
                && pair.path.is_ident("path")
                && let Expr::Lit(value) = &pair.value
                && let Lit::Str(file) = &value.lit
            {
                self.test_files.push(file.value());
            }
        }
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item(&mut self, item: &'ast Item) {
        if attributes_of(item).iter().any(is_for_tests) {
            self.test_lines.push(item.span().start().line..=item.span().end().line);
            return self.test_file(item);
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes = match item {
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Const(item) => &item.attrs,
            _ => return visit::visit_impl_item(self, item),
        };
        if attributes.iter().any(is_for_tests) {
            return self.test_lines.push(item.span().start().line..=item.span().end().line);
        }
        visit::visit_impl_item(self, item);
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.child(module);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.import(&item.tree, &[]);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        panic!("{}: `extern crate {}` hides whose module is used", self.file_name, item.ident);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let line = path.span().start().line;
        self.current().paths.push(UsedPath { segments, line });
        visit::visit_path(self, path);
    }

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {
        // `pub(in super::super)` says who may use something, and uses nothing.
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        assert!(!item.path.is_ident("include"), "{}: `include!` hides code", self.file_name);
        visit::visit_macro(self, item);
    }

    fn visit_token_stream(&mut self, tokens: &'ast TokenStream) {
        self.tokens(tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if !attribute.path().is_ident("doc") {
            visit::visit_attribute(self, attribute);
        }
    }

    fn visit_lit(&mut self, literal: &'ast Lit) {
        self.literal(literal.span());
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, Some(&item.block));
        visit::visit_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let around = std::mem::replace(&mut self.is_of_trait, item.trait_.is_some());
        visit::visit_item_impl(self, item);
        self.is_of_trait = around;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, Some(&item.block));
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.function(&item.sig, item.default.as_ref());
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.name(&item.ident, true);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.name(&item.ident, true);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.name(&item.ident, true);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.name(&item.ident, true);
        visit::visit_item_type(self, item);
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.name(&variant.ident, false);
        visit::visit_variant(self, variant);
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if let Some(ident) = &field.ident {
            self.name(ident, false);
        }
        visit::visit_field(self, field);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.name(&item.ident, false);
        visit::visit_item_const(self, item);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.name(&item.ident, false);
        visit::visit_item_static(self, item);
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        self.name(&item.ident, false);
        visit::visit_impl_item_const(self, item);
    }
}

fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(syn::ItemConst { attrs, .. })
        | Item::Enum(syn::ItemEnum { attrs, .. })
        | Item::Fn(syn::ItemFn { attrs, .. })
        | Item::Impl(syn::ItemImpl { attrs, .. })
        | Item::Macro(syn::ItemMacro { attrs, .. })
        | Item::Mod(syn::ItemMod { attrs, .. })
        | Item::Static(syn::ItemStatic { attrs, .. })
        | Item::Struct(syn::ItemStruct { attrs, .. })
        | Item::Trait(syn::ItemTrait { attrs, .. })
        | Item::Type(syn::ItemType { attrs, .. })
        | Item::Use(syn::ItemUse { attrs, .. }) => attrs,
        _ => &[],
    }
}

/// `#[cfg(test)]`, also together with more conditions.
fn is_for_tests(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg") && attribute.parse_args::<Meta>().is_ok_and(|condition| needs_test(&condition))
}

fn needs_test(condition: &Meta) -> bool {
    match condition {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("all") => {
            let parts = syn::punctuated::Punctuated::<Meta, syn::Token![,]>::parse_terminated;
            list.parse_args_with(parts).is_ok_and(|parts| parts.iter().any(needs_test))
        }
        _ => false,
    }
}
