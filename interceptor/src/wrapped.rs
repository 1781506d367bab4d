//! Streams around streams: a wrapper says what it changes about writing, and everything else goes
//! to the stream inside, vectored writes too.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// The bytes of one write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Data<'a> {
    /// In one piece.
    Whole(&'a [u8]),
    /// In several.
    Pieces(&'a [IoSlice<'a>]),
}

impl<'a> Data<'a> {
    /// Writes them to a stream, as they are.
    pub(crate) fn write<S>(self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>>
    where
        S: AsyncWrite + Unpin,
    {
        match self {
            Data::Whole(bytes) => Pin::new(stream).poll_write(cx, bytes),
            Data::Pieces(pieces) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    /// How many there are.
    pub(crate) fn len(self) -> usize {
        match self {
            Data::Whole(bytes) => bytes.len(),
            Data::Pieces(pieces) => pieces.iter().map(|piece| piece.len()).sum(),
        }
    }

    /// The first piece that is not empty.
    pub(crate) fn first(self) -> &'a [u8] {
        match self {
            Data::Whole(bytes) => bytes,
            Data::Pieces(pieces) => {
                pieces.iter().find(|piece| !piece.is_empty()).map_or(&[], |piece| piece)
            }
        }
    }

    /// Calls `each` with the first `count` of them, in pieces.
    pub(crate) fn each(self, mut count: usize, mut each: impl FnMut(&[u8])) {
        match self {
            Data::Whole(bytes) => each(&bytes[..count]),
            Data::Pieces(pieces) => {
                for piece in pieces {
                    let length = count.min(piece.len());
                    each(&piece[..length]);
                    count -= length;
                }
            }
        }
    }
}

/// A stream around another; [`write_through`] makes it one that is written to.
pub(crate) trait Wrapper {
    /// The stream inside.
    type Inner: AsyncWrite + Unpin;

    /// The stream inside, while it is there.
    fn inner(&self) -> Option<&Self::Inner>;

    /// The stream inside, while it is there.
    fn inner_mut(&mut self) -> Option<&mut Self::Inner>;

    /// Writes.
    fn on_write(&mut self, cx: &mut Context<'_>, data: Data<'_>) -> Poll<io::Result<usize>> {
        match self.inner_mut() {
            Some(inner) => data.write(inner, cx),
            None => Poll::Ready(Err(gone())),
        }
    }

    /// Flushes.
    fn on_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.inner_mut() {
            Some(inner) => Pin::new(inner).poll_flush(cx),
            None => Poll::Ready(Err(gone())),
        }
    }

    /// Ends the writing side.
    fn on_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.inner_mut() {
            Some(inner) => Pin::new(inner).poll_shutdown(cx),
            None => Poll::Ready(Err(gone())),
        }
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// Implements [`Wrapper`]'s two accessors for a field.
macro_rules! inner {
    ($field:ident: $inner:ty) => {
        type Inner = $inner;

        fn inner(&self) -> Option<&$inner> {
            Some(&self.$field)
        }

        fn inner_mut(&mut self) -> Option<&mut $inner> {
            Some(&mut self.$field)
        }
    };
}

/// Implements `AsyncWrite` for a [`Wrapper`].
macro_rules! write_through {
    ($wrapper:ty $(, $($bounds:tt)+)?) => {
        impl$(<$($bounds)+>)? tokio::io::AsyncWrite for $wrapper {
            #[inline]
            fn poll_write(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                bytes: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                use $crate::wrapped::{Data, Wrapper as _};
                self.get_mut().on_write(cx, Data::Whole(bytes))
            }

            #[inline]
            fn poll_write_vectored(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                pieces: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                use $crate::wrapped::{Data, Wrapper as _};
                self.get_mut().on_write(cx, Data::Pieces(pieces))
            }

            fn is_write_vectored(&self) -> bool {
                use $crate::wrapped::Wrapper as _;
                self.inner().is_some_and(tokio::io::AsyncWrite::is_write_vectored)
            }

            #[inline]
            fn poll_flush(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                use $crate::wrapped::Wrapper as _;
                self.get_mut().on_flush(cx)
            }

            fn poll_shutdown(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                use $crate::wrapped::Wrapper as _;
                self.get_mut().on_shutdown(cx)
            }
        }
    };
}

pub(crate) use {inner, write_through};
