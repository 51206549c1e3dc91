// faultline metrics: the figures of a service for Prometheus.

#include <cstdio>
#include <optional>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/metrics_server.h"
#include "cli/restore_options.h"
#include "cli/session.h"
#include "cli/socket_file.h"
#include "rpc/refusal.h"

namespace faultline::cli {

namespace {

struct MetricsOptions {
  std::string control = DEFAULT_CONTROL, listen = "127.0.0.1:9464";
  bool once = false, perShard = false;
};

int metrics(const MetricsOptions& options) {
  Interrupts::capture();
  auto io = kj::setupAsyncIo();
  MetricsSource source(io, options.control, options.perShard ? Detail::shards : Detail::restores);
  if (options.once) {
    Interrupts interrupts(io.unixEventPort);
    auto interrupted =
        interrupts.next().then([]() -> std::string { rpc::refuse(rpc::Reason::FAILED, "interrupted"); });
    const std::string text = source.text().exclusiveJoin(kj::mv(interrupted)).wait(io.waitScope);
    fputs(text.c_str(), stdout);
    return text == metricsTextOfNobody() ? DISCONNECTED : OK;
  }
  MetricsSocket socket = listenForMetrics(io, options.listen);
  std::optional<OwnFile> file;
  if (options.listen.starts_with("unix:")) file.emplace(options.listen.substr(5));
  WatchSource watch(io, options.control);
  MapSource maps(io, options.control);
  const bool local = options.listen.starts_with("unix:");
  MetricsServer server(io.provider->getTimer(), source, watch, maps, local);
  printf("metrics at %s\n", socket.address.c_str());
  if (!local) printf("to watch: %s\n", socket.address.substr(0, socket.address.rfind("metrics")).c_str());
  fflush(stdout);
  Interrupts interrupts(io.unixEventPort);
  server.serve(*socket.receiver).exclusiveJoin(interrupts.next()).wait(io.waitScope);
  return OK;
}

}  // namespace

void addMetrics(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<MetricsOptions>();
  CLI::App* command = app.add_subcommand("metrics", "The figures of a service, for Prometheus");
  command->description(
      "Serve the figures of a running service in Prometheus's text format, at /metrics: faults by how they "
      "ended,\n"
      "latencies, removals, deaths and recoveries, progress, by restore.\n\n"
      "At / it serves a page to watch: restores, what is stalled and why, and the pages of a restore as they "
      "come.\n\n"
      "A process of its own: it asks by the control socket, waits for a coordinator's successor, and the "
      "service has no\n"
      "port open.\n\n"
      "Examples:\n"
      "  faultline metrics\n"
      "  faultline metrics --listen unix:/run/faultline/metrics.sock\n"
      "  faultline metrics --once > /var/lib/node_exporter/faultline.prom\n\n"
      "What each figure means: docs/metrics.md. Alerts and a dashboard: docs/prometheus, docs/grafana; "
      "installed, all of\n"
      "it is in share/doc/faultline.");
  addControl(*command, options->control);
  command->add_option("--listen", options->listen, "unix:PATH, or a port of this machine alone; port 0: any")
      ->capture_default_str();
  command->add_flag(
      "--per-shard", options->perShard,
      "Each restore's work shard by shard, with every histogram whole: 80 samples for each shard "
      "of a restore,\nand 50 for the restore itself");
  command->add_flag("--once", options->once, "Print the figures and end (4 where no server answers)");
  command->footer(EXIT_CODES);
  command->callback([options, &chosen] { chosen = [options] { return metrics(*options); }; });
}

}  // namespace faultline::cli
