//! The metrics of the operator's page.
//! `dashboard` sets them each second, where there is a page.

use prometheus::IntGauge;

use super::Registrar;
use crate::metrics::Metrics;

/// The cost of the page.
#[derive(Debug, Clone)]
pub struct DashboardMeters {
    /// Bytes of problems, rows and history.
    pub bytes: IntGauge,
    /// Pages and scripts that read the stream.
    pub streams: IntGauge,
}

impl Metrics {
    /// Registers the metrics of the operator's page; call it once.
    pub fn dashboard(&self) -> DashboardMeters {
        let own = Registrar { registry: &self.registry, prefix: "gema_" };
        DashboardMeters {
            bytes: own.register(IntGauge::new("gema_dashboard_bytes", "Memory of the operator's page")),
            streams: own.register(IntGauge::new("gema_dashboard_streams", "Pages that are open at this node")),
        }
    }
}
