//! Transactions of simulated clients.

use crate::client::Client;

/// Until the sidecar takes them: a plain command.
pub(crate) async fn run(client: &mut Client) {
    let command = client.draw();
    client.single(&command).await;
}
