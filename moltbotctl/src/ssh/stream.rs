//! A byte stream to a port of the far host through an ssh child's standard
//! input and output: no local port, so no other local user and no other program
//! can meet it.

use std::{
    io,
    pin::Pin,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    task::JoinHandle,
};

use super::{Failure, Login, command, sharing::would_lead, to};

/// How long ssh may take to end after it closed its output.
const END_WAIT: Duration = Duration::from_secs(2);
/// How long its last words may take. A multiplexing master that it left behind
/// may keep the pipe open for good.
const WORDS_WAIT: Duration = Duration::from_millis(200);
/// How much of ssh's words is kept.
const MOST_WORDS_BYTES: usize = 8 << 10;

type Ending = Pin<Box<dyn Future<Output = Option<Failure>> + Send>>;

/// An open stream. The child ends with it.
pub struct Stream {
    input: ChildStdin,
    output: ChildStdout,
    ending: Ending,
    /// Why ssh ended; `Some(None)` when it ended as it should.
    ended: Option<Option<Failure>>,
    over: bool,
    heard: Arc<std::sync::atomic::AtomicBool>,
}

impl Stream {
    /// Starts ssh towards a loopback port of the far host. Whether it gets
    /// there is known when something is read.
    ///
    /// # Errors
    /// When ssh cannot be started.
    pub async fn open(login: &Login, port: u16, patience: Duration) -> io::Result<Self> {
        let mut command = command(login, patience);
        if would_lead(login).await {
            command.args(["-o", "ControlMaster=no"]);
        }
        command.args(["-W", &format!("127.0.0.1:{port}")]);
        to(&mut command, login);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let started = command.spawn();
        let mut child =
            started.map_err(|error| io::Error::other(Failure::of_start(login, port, &error)))?;
        let missing = || io::Error::other("ssh was started without pipes");
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = child.stdout.take().ok_or_else(missing)?;
        let said = Said::of(child.stderr.take());
        let heard = Arc::<std::sync::atomic::AtomicBool>::default();
        let ending = Box::pin(ending(child, said, login.clone(), port, Arc::clone(&heard)));
        Ok(Self { input, output, ending, ended: None, over: false, heard })
    }

    /// Waits until ssh has ended; an end without a fault is the end of the stream.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended.is_none() {
            self.ended = Some(ready!(self.ending.as_mut().poll(cx)));
        }
        Poll::Ready(match self.ended.clone().flatten() {
            Some(failure) => Err(io::Error::other(failure)),
            None => Ok(()),
        })
    }

    /// An ssh that is gone explains a pipe that is broken.
    fn poll_broken<T>(&mut self, cx: &mut Context<'_>, error: io::Error) -> Poll<io::Result<T>> {
        if error.kind() != io::ErrorKind::BrokenPipe {
            return Poll::Ready(Err(error));
        }
        match ready!(self.poll_end(cx)) {
            Ok(()) => Poll::Ready(Err(error)),
            Err(failure) => Poll::Ready(Err(failure)),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.over {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.output).poll_read(cx, buffer))?;
            if buffer.filled().len() > before {
                this.heard.store(true, std::sync::atomic::Ordering::Relaxed);
                return Poll::Ready(Ok(()));
            }
            this.over = true;
        }
        this.poll_end(cx)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match ready!(Pin::new(&mut this.input).poll_write(cx, bytes)) {
            Err(error) => this.poll_broken(cx, error),
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match ready!(Pin::new(&mut this.input).poll_flush(cx)) {
            Err(error) => this.poll_broken(cx, error),
            flushed => Poll::Ready(flushed),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().input).poll_shutdown(cx)
    }
}

async fn ending(
    mut child: Child,
    said: Said,
    login: Login,
    port: u16,
    heard: Arc<std::sync::atomic::AtomicBool>,
) -> Option<Failure> {
    let status = wait_for_end(&mut child).await;
    if status.is_some_and(|status| status.success()) {
        return None;
    }
    let heard = heard.load(std::sync::atomic::Ordering::Relaxed);
    Some(Failure::of_end(&login, port, status, &said.words().await, heard))
}

/// Waits for a child that is about to end.
async fn wait_for_end(child: &mut Child) -> Option<std::process::ExitStatus> {
    tokio::time::timeout(END_WAIT, child.wait()).await.ok()?.ok()
}

/// What an ssh writes to standard error, read as it comes.
#[derive(Debug)]
pub(crate) struct Said {
    kept: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<()>,
}

impl Said {
    pub(crate) fn of(stderr: Option<ChildStderr>) -> Self {
        let kept = Arc::<Mutex<Vec<u8>>>::default();
        let reading = tokio::spawn(read(stderr, Arc::clone(&kept)));
        Self { kept, reading }
    }

    /// Returns what was said so far.
    pub(crate) fn so_far(&self) -> String {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).into_owned()
    }

    /// Waits a moment for the last words of an ssh that ended.
    pub(crate) async fn words(mut self) -> String {
        let _ = tokio::time::timeout(WORDS_WAIT, &mut self.reading).await;
        self.so_far()
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

async fn read(stderr: Option<ChildStderr>, kept: Arc<Mutex<Vec<u8>>>) {
    let Some(mut stderr) = stderr else { return };
    let mut piece = [0; 1024];
    while let Ok(length @ 1..) = stderr.read(&mut piece).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&piece[..length]);
        let surplus = kept.len().saturating_sub(MOST_WORDS_BYTES);
        kept.drain(..surplus);
    }
}
