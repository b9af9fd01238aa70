//! Laravel's names for the app and the server: those for Pusher, or those for Reverb.
//! `laravel` chooses them, and `report` writes them.

/// The names by which Laravel calls the app and the server's address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Names {
    /// `PUSHER_APP_KEY`, `PUSHER_HOST` …
    #[default]
    Pusher,
    /// `REVERB_APP_KEY`, `REVERB_HOST` …
    Reverb,
}

impl Names {
    /// Before the first underscore.
    pub(super) fn start(self) -> &'static str {
        match self {
            Self::Pusher => "PUSHER",
            Self::Reverb => "REVERB",
        }
    }

    /// A text about Pusher's names with these.
    pub(super) fn put_into(self, text: &str) -> String {
        match self {
            Self::Pusher => text.to_owned(),
            Self::Reverb => text.replace("PUSHER_", "REVERB_").replace("CONNECTION=pusher", "CONNECTION=reverb"),
        }
    }
}
