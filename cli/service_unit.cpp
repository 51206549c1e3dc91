#include "cli/service_unit.h"

#include <systemd/sd-bus.h>
#include <systemd/sd-daemon.h>

#include <cstdlib>
#include <cstring>
#include <memory>

namespace faultline::cli {

namespace {

constexpr const char* SYSTEMD = "org.freedesktop.systemd1";
constexpr std::uint64_t PATIENCE_US = 5'000'000;

struct Closes {
  void operator()(sd_bus* bus) const { sd_bus_flush_close_unref(bus); }
  void operator()(sd_bus_message* message) const { sd_bus_message_unref(message); }
  void operator()(char* text) const { free(text); }
};
using Bus = std::unique_ptr<sd_bus, Closes>;
using Message = std::unique_ptr<sd_bus_message, Closes>;

std::uint64_t limitOf(sd_bus* bus, const char* path, const char* property) {
  std::uint64_t value = 0;
  sd_bus_get_property_trivial(bus, SYSTEMD, path, "org.freedesktop.systemd1.Service", property, nullptr, 't',
                              &value);
  return value;
}

}  // namespace

ServiceUnit serviceUnit(const std::string& name) {
  ServiceUnit unit;
  if (sd_booted() <= 0) {
    unit.why = "systemd does not run this machine";
    return unit;
  }
  sd_bus* opened = nullptr;
  int error = sd_bus_open_system(&opened);
  const Bus bus(opened);
  if (error < 0) {
    unit.why = std::string("systemd cannot be asked: ") + std::strerror(-error);
    return unit;
  }
  unit.state = ServiceUnit::State::notLoaded;
  sd_bus_set_method_call_timeout(bus.get(), PATIENCE_US);
  sd_bus_message* answer = nullptr;
  error =
      sd_bus_call_method(bus.get(), SYSTEMD, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager",
                         "LoadUnit", nullptr, &answer, "s", name.c_str());
  const Message message(answer);
  const char* path = nullptr;
  if (error >= 0) error = sd_bus_message_read(message.get(), "o", &path);
  if (error < 0) {
    unit.why = "systemd does not tell of " + name + ": " + std::strerror(-error);
    return unit;
  }
  char* text = nullptr;
  error = sd_bus_get_property_string(bus.get(), SYSTEMD, path, "org.freedesktop.systemd1.Unit", "LoadState",
                                     nullptr, &text);
  const std::unique_ptr<char, Closes> state(text);
  if (error < 0 || std::strcmp(state.get(), "loaded") != 0) {
    unit.why = "there is no unit " + name;
    return unit;
  }
  unit.state = ServiceUnit::State::loaded;
  std::uint32_t stored = 0;
  sd_bus_get_property_trivial(bus.get(), SYSTEMD, path, "org.freedesktop.systemd1.Service",
                              "FileDescriptorStoreMax", nullptr, 'u', &stored);
  unit.storedFds = stored;
  unit.openFiles = limitOf(bus.get(), path, "LimitNOFILE");
  unit.lockedBytes = limitOf(bus.get(), path, "LimitMEMLOCK");
  return unit;
}

}  // namespace faultline::cli
