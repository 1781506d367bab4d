//! Fill levels of the kernel maps: a full map refuses the next sandbox, or any sandbox's next
//! connection.

use std::sync::Arc;

use interceptor_ebpf::layout::{HALF_OPEN_LIMIT, NETWORKS_CAPACITY};

use super::maps::Maps;
use crate::seam::{HalfOpen, MapFill, MapFills};

/// Reads the fill levels of a program set's maps.
#[derive(Clone, Debug)]
pub struct MapGauge {
    pub(super) maps: Arc<Maps>,
    pub(super) sandboxes: u32,
}

impl MapFills for MapGauge {
    fn read(&self) -> Vec<MapFill> {
        let (sandboxes, flows) = self.maps.half_open_of_all();
        let most = u64::from(self.sandboxes);
        let fill = |map, entries, capacity| MapFill { map, entries, capacity };
        vec![
            fill("sandboxes", sandboxes, most),
            fill("flows", flows, most.saturating_mul(HALF_OPEN_LIMIT.into())),
            fill("networks", self.maps.networks_written(), NETWORKS_CAPACITY as u64),
        ]
    }
}

/// Reads the number of half-open connections of one sandbox.
#[derive(Clone, Debug)]
pub struct HalfOpenGauge {
    pub(super) maps: Arc<Maps>,
    pub(super) sandbox: u64,
}

impl HalfOpen for HalfOpenGauge {
    fn read(&self) -> Option<u64> {
        self.maps.half_open(self.sandbox)
    }
}
