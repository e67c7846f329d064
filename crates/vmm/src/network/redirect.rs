//! Redirects of all frames between two interfaces (`tc(8)`, `linux/pkt_sched.h`, `linux/pkt_cls.h`,
//! `linux/tc_act/tc_mirred.h`). With `u32`, since kernels without `matchall` are common in VMs.

use std::io;

use super::netlink::{CREATE, Request, Socket, absent, attribute};
use super::rtnetlink::text;

const NEW_QUEUE: u16 = 36;
const DELETE_QUEUE: u16 = 37;
const NEW_FILTER: u16 = 44;
const GET_FILTER: u16 = 46;

/// `struct tcmsg`: family and padding, index, handle, parent, info.
const TC: usize = 20;
/// `TC_H_INGRESS`.
const INGRESS: u32 = 0xffff_fff1;
/// The ingress queue itself, `ffff:`.
const QUEUE: u32 = 0xffff_0000;
/// First and only priority, and `ETH_P_ALL` in network byte order.
const EVERY_FRAME: u32 = 1 << 16 | (3u16.to_be() as u32);

/// Adds an ingress queue.
pub(super) fn ingress(kernel: &mut Socket, index: u32) -> io::Result<()> {
    let request = Request::new(NEW_QUEUE, &[&header(index, QUEUE, INGRESS, 0)]).attribute(1, b"ingress\0");
    kernel.change(request, CREATE)
}

/// Removes the ingress queue with its filters, if it is there.
pub(super) fn no_ingress(kernel: &mut Socket, index: u32) -> io::Result<()> {
    match kernel.change(Request::new(DELETE_QUEUE, &[&header(index, QUEUE, INGRESS, 0)]), 0) {
        Err(error) if absent(&error) => Ok(()),
        done => done,
    }
}

/// Whether the interface has an ingress queue with a filter like [`all`]'s: another program's queue is not ours to remove.
pub(super) fn ours(kernel: &mut Socket, index: u32) -> io::Result<bool> {
    match kernel.list(Request::new(GET_FILTER, &[&header(index, 0, QUEUE, 0)])) {
        Ok(filters) => Ok(filters.iter().any(|filter| text(filter, TC, 1) == Some(b"u32"))),
        Err(error) if absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sends everything that arrives at `from` out at `to`.
pub(super) fn all(kernel: &mut Socket, from: u32, to: u32) -> io::Result<()> {
    const STOLEN: u32 = 4;
    const OUT: u32 = 1;
    const TERMINAL: u8 = 1;
    // `tc_u32_sel` with one `tc_u32_key`: no bit of the first word has to have any value.
    let selector = [[TERMINAL, 0, 1, 0].as_slice(), &[0; 12], &[0; 16]].concat();
    // `tc_mirred`: index, capabilities, action, two counters, what to do, where to.
    let mirred = [0, 0, STOLEN, 0, 0, OUT, to].map(u32::to_ne_bytes).concat();
    let action = [attribute(1, b"mirred\0"), attribute(2, &attribute(2, &mirred))].concat();
    let options = [attribute(5, &selector), attribute(7, &attribute(1, &action))].concat();
    let request = Request::new(NEW_FILTER, &[&header(from, 0, QUEUE, EVERY_FRAME)]);
    kernel.change(request.attribute(1, b"u32\0").attribute(2, &options), CREATE)
}

fn header(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    [0, index, handle, parent, info].map(u32::to_ne_bytes).concat()
}
