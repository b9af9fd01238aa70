//! The settings of gema: sections with their defaults and checks, and the apps.
//! `config` puts them together. Each part of the server receives its own section.

pub(super) mod allowed_origins;
pub(super) mod apps;
pub(super) mod aws;
pub(super) mod cluster;
pub(super) mod connections;
pub(super) mod dashboard;
pub(super) mod flow_rules;
pub(super) mod history_rules;
pub(super) mod http;
pub(super) mod ingest;
pub(super) mod log;
pub(super) mod metrics;
pub(super) mod nats;
pub(super) mod raw_clients;
pub(super) mod redis;
pub(super) mod server;
pub(super) mod store;
pub(super) mod tls;
pub(super) mod values;
pub(super) mod webhooks;

/// Defines a section: a struct whose fields have their defaults beside them, and behind `=>` the bounds of the value.
macro_rules! section {
    (
        $(#[$about:meta])*
        pub struct $section:ident { $( $(#[$about_field:meta])* pub $field:ident: $type:ty = $default:expr $(=> $bounds:expr)?, )* }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $section { $( $(#[$about_field])* pub $field: $type, )* }

        impl Default for $section {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl $section {
            /// Adds a fault for each value out of its bounds.
            pub(in crate::config) fn check_bounds(&self, section: &str, faults: &mut crate::config::fault::FaultList) {
                $($( faults.within(&format!("{section}.{}", stringify!($field)), self.$field, $bounds); )?)*
                let _ = (section, faults);
            }
        }
    };
}
use section;

/// A name of a method or header, as HTTP has it.
pub(super) fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
