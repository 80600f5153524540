//! `lifeboat mock-imds`.

use anyhow::Context;
use lifeboat_imds::mock;
use lifeboat_imds::mock::args::MockArgs;

use crate::output;

/// Serves until SIGINT or SIGTERM.
pub(crate) async fn serve(args: MockArgs) -> anyhow::Result<u8> {
    let settings = args.into_settings(lifeboat_agent::clock::wall_now())?;
    let listener = mock::listen(settings.addr).await?;
    let addr = listener.local_addr().context("cannot tell the address")?;
    output::result(&format!(
        "mock metadata service on http://{addr}\nexport AWS_EC2_METADATA_SERVICE_ENDPOINT=http://{addr}\n"
    ))?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let stopped = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    mock::serve(listener, settings.script, stopped).await?;
    Ok(0)
}
