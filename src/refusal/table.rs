//! Tables of causes: a macro makes an enum of each, with the name, sentence and remedy of each cause.
//! `refusal` has one for what the server refuses, and `gema doctor` one for what it finds.

/// Makes the enum `Cause` from rows of a variant, its name, an optional `[code]`, its sentence and its remedy.
macro_rules! cause_table {
    ($($variant:ident $name:literal $sentence:literal $remedy:literal;)*) => {
        /// A cause.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Cause { $(#[doc = $sentence] $variant,)* }

        impl Cause {
            /// All causes, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name, for labels and scripts.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The cause in words.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// The remedy, with the name of the setting.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }
        }
    };
    ($($variant:ident $name:literal [$code:literal] $sentence:literal $remedy:literal;)*) => {
        cause_table! { $($variant $name $sentence $remedy;)* }

        impl Cause {
            /// The code and its text; 0 without one.
            const fn code_and_label(self) -> (u16, &'static str) {
                match self { $(Self::$variant => ($code, stringify!($code)),)* }
            }
        }
    };
}

pub(crate) use cause_table;
