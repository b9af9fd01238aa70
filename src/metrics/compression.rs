//! The counters of compression, if `connections.compression` is set.
//! `node` registers them; `shard` counts.

use prometheus::IntCounter;

use crate::metrics::Registrar;

/// Counts the work of compression and its gain.
#[derive(Debug)]
pub struct CompressionMeters {
    /// Frames that were compressed, each once.
    pub frames: IntCounter,
    /// Bytes that connections did not get because their frames were compressed.
    pub saved_bytes: IntCounter,
}

impl CompressionMeters {
    pub(super) fn new(own: &Registrar<'_>) -> Self {
        Self {
            frames: own.register(IntCounter::new(
                "gema_compressed_frames_total",
                "Frames that were compressed, each once for all connections",
            )),
            saved_bytes: own.register(IntCounter::new(
                "gema_compression_saved_bytes_total",
                "Bytes that were not sent because frames were compressed",
            )),
        }
    }
}
