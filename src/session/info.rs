//! A connection for the operator: its client, and whether a search finds it.
//! The shard asks for lists, and the log's events carry it.

use std::net::IpAddr;

use crate::protocol::connect::ConnectRequest;
use crate::protocol::socket_id::SocketId;
use crate::registry::address::Address;
use crate::registry::connections::ConnectionInfo;
use crate::registry::connections::Wanted;
use crate::session::Session;

/// Channels of a connection that an answer names.
const CHANNELS_SHOWN: usize = 100;
/// Characters of a client's texts.
const CHARS_MAX: usize = 200;

/// The client by its own words. It is stored only where there is an operator's page.
#[derive(Debug)]
pub(super) struct Details {
    pub(super) library: Option<String>,
    pub(super) origin: Option<String>,
}

impl Details {
    pub(super) fn of(request: &ConnectRequest) -> Self {
        let cut = |text: &String| text.chars().take(CHARS_MAX).collect::<String>();
        let version = request.version.as_ref().map(cut);
        let library = request.library.as_ref().map(cut);
        let library = library.map(|name| version.map_or(name.clone(), |version| format!("{name} {version}")));
        Self { library, origin: request.origin.as_ref().map(cut) }
    }
}

impl Session {
    /// The client's address for an event of the log, where there is an operator's page.
    pub(super) fn shown_address(&self) -> Option<tracing::field::DisplayValue<IpAddr>> {
        self.details.as_ref().map(|_| tracing::field::display(self.client_address))
    }

    /// The user for an event of the log, where there is an operator's page.
    pub(super) fn shown_user<'a>(&'a self, member: Option<&'a str>) -> Option<&'a str> {
        self.details.as_ref().and(member.or(self.user.as_ref().map(|user| &*user.id)))
    }

    /// Whether a search finds the connection.
    pub fn matches(&self, wanted: &Wanted) -> bool {
        let is = |wanted: &Option<String>, test: &dyn Fn(&str) -> bool| wanted.as_deref().is_none_or(test);
        is(&wanted.app, &|app| self.app.id == app)
            && is(&wanted.socket, &|socket| SocketId::parse(socket) == Some(self.socket_id))
            && is(&wanted.address, &|beginning| self.client_address.to_string().starts_with(beginning))
            && is(&wanted.channel, &|channel| self.find(channel).is_ok())
            && is(&wanted.user, &|user| self.users().any(|own| own == user))
    }

    fn users(&self) -> impl Iterator<Item = &str> {
        let members = self.subscriptions.iter().filter_map(|subscription| subscription.user_id.as_deref());
        self.user.iter().map(|user| &*user.id).chain(members)
    }

    /// The connection for the operator; the shard adds what it knows itself.
    pub fn info(&self, place: Address) -> ConnectionInfo {
        let channels = self.subscriptions.iter().take(CHANNELS_SHOWN);
        let details = self.details.as_deref();
        ConnectionInfo {
            place,
            app: self.app.id.clone(),
            socket_id: self.socket_id,
            user: self.users().next().map(str::to_owned),
            address: self.client_address,
            library: details.and_then(|details| details.library.clone()),
            protocol: self.protocol,
            origin: details.and_then(|details| details.origin.clone()),
            age_seconds: 0,
            channels: (channels.map(|subscription| subscription.name.to_string()).collect(), self.subscriptions.len()),
            waiting_bytes: 0,
        }
    }
}
