//! No proxy: the load connects to the origin.

use anyhow::Result;

use super::{Contender, outside};
use crate::load::Way;
use crate::options::Options;
use crate::world::World;

pub(super) fn start(world: &World, _: &Options) -> Result<Contender> {
    let (to, trust) = (Some(world.origin.address), Some(world.roots()));
    Contender::new(outside()?, &Way { to, trust, ..Way::default() }, None)
}
