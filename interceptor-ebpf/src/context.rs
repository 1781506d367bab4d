//! Reading and writing the context of a `sock_addr` hook, one implementation for both families.
//!
//! Every access is inline assembly at a constant offset. The verifier takes no access through
//! `context + register`, and that is what LLVM makes of two reads it can merge: "dereference of
//! modified ctx ptr R1 off=8 disallowed".

use core::arch::asm;
use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem::offset_of;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use interceptor_ebpf::Endpoint;

/// Reads the word at `OFFSET` of a context.
#[inline(always)]
pub(crate) fn read<const OFFSET: usize>(context: *mut c_void) -> u32 {
    let value: u64;
    // SAFETY: one load from the context that the kernel passed in; the verifier checks that the
    // offset is a readable field.
    unsafe {
        asm!("{value} = *(u32 *)({context} + {offset})", value = lateout(reg) value, context = in(reg) context,
             offset = const OFFSET, options(readonly, nostack, preserves_flags));
    }
    value as u32
}

/// Reads the pointer at `OFFSET` of a context.
#[inline(always)]
pub(crate) fn read_pointer<const OFFSET: usize>(context: *mut c_void) -> *mut c_void {
    let value: *mut c_void;
    // SAFETY: as in `read`.
    unsafe {
        asm!("{value} = *(u64 *)({context} + {offset})", value = lateout(reg) value, context = in(reg) context,
             offset = const OFFSET, options(readonly, nostack, preserves_flags));
    }
    value
}

/// Writes the word at `OFFSET` of a context.
#[inline(always)]
fn write<const OFFSET: usize>(context: *mut c_void, value: u32) {
    // SAFETY: one store to the context; the verifier checks that the offset is a field this hook
    // may write.
    unsafe {
        asm!("*(u32 *)({context} + {offset}) = {value}", value = in(reg) u64::from(value), context = in(reg) context,
             offset = const OFFSET, options(nostack, preserves_flags));
    }
}

/// The family a hook is for, which is the form its address has in the context.
pub(crate) trait Family {
    /// Reads the address into the common form.
    fn address(context: *mut c_void) -> [u32; 4];
    /// Writes an address given in the common form.
    fn set_address(context: *mut c_void, address: [u32; 4]);
}

/// A hook whose context holds `user_ip4`.
pub(crate) struct V4;
/// A hook whose context holds `user_ip6`.
pub(crate) struct V6;

const IP4: usize = offset_of!(bpf_sock_addr, user_ip4);
const IP6: usize = offset_of!(bpf_sock_addr, user_ip6);
const PORT: usize = offset_of!(bpf_sock_addr, user_port);

impl Family for V4 {
    #[inline(always)]
    fn address(context: *mut c_void) -> [u32; 4] {
        Endpoint::v4(read::<IP4>(context), 0).address
    }

    #[inline(always)]
    fn set_address(context: *mut c_void, address: [u32; 4]) {
        write::<IP4>(context, address[3]);
    }
}

impl Family for V6 {
    #[inline(always)]
    fn address(context: *mut c_void) -> [u32; 4] {
        [
            read::<IP6>(context),
            read::<{ IP6 + 4 }>(context),
            read::<{ IP6 + 8 }>(context),
            read::<{ IP6 + 12 }>(context),
        ]
    }

    #[inline(always)]
    fn set_address(context: *mut c_void, address: [u32; 4]) {
        write::<IP6>(context, address[0]);
        write::<{ IP6 + 4 }>(context, address[1]);
        write::<{ IP6 + 8 }>(context, address[2]);
        write::<{ IP6 + 12 }>(context, address[3]);
    }
}

/// The address in a system call, and the socket of that call.
pub(crate) struct Address<F> {
    context: SockAddrContext,
    family: PhantomData<F>,
}

impl<F: Family> Address<F> {
    /// Of a hook's context.
    #[inline(always)]
    pub(crate) fn new(context: SockAddrContext) -> Self {
        Self { context, family: PhantomData }
    }

    /// The context, for the log.
    #[inline(always)]
    pub(crate) fn context(&self) -> &SockAddrContext {
        &self.context
    }

    /// The address in the call.
    #[inline(always)]
    pub(crate) fn get(&self) -> Endpoint {
        let context = self.context.as_ptr();
        let port = u32::from(u16::from_be(read::<PORT>(context) as u16));
        Endpoint { address: F::address(context), port }
    }

    /// Puts another address in its place.
    #[inline(always)]
    pub(crate) fn set(&self, endpoint: &Endpoint) {
        let context = self.context.as_ptr();
        F::set_address(context, endpoint.address);
        write::<PORT>(context, u32::from((endpoint.port as u16).to_be()));
    }

    /// `SOCK_STREAM`, `SOCK_DGRAM` …
    #[inline(always)]
    pub(crate) fn socket_type(&self) -> u32 {
        read::<{ offset_of!(bpf_sock_addr, type_) }>(self.context.as_ptr())
    }

    /// `IPPROTO_TCP`, `IPPROTO_UDP` …
    #[inline(always)]
    pub(crate) fn protocol(&self) -> u32 {
        read::<{ offset_of!(bpf_sock_addr, protocol) }>(self.context.as_ptr())
    }

    /// The socket.
    #[inline(always)]
    pub(crate) fn socket(&self) -> *mut c_void {
        read_pointer::<{ offset_of!(bpf_sock_addr, __bindgen_anon_1) }>(self.context.as_ptr())
    }
}
