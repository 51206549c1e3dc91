// The paths of the JSON door beside the schema and the documentation: no call is forgotten, none is invented.

#include <capnp/dynamic.h>
#include <capnp/schema.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "cli/http_routes.h"
#include "rpc/control.capnp.h"

namespace faultline::cli {
namespace {

std::string nameOf(Route::Subject subject) {
  switch (subject) {
    case Route::Subject::coordinator:
      return "Coordinator";
    case Route::Subject::restore:
      return "Restore";
    case Route::Subject::recordedWorkingSet:
      return "RecordedWorkingSet";
  }
  return "";
}

template <typename... Interfaces>
std::set<std::string> callsOf() {
  std::set<std::string> calls;
  const auto add = [&calls](capnp::InterfaceSchema schema) {
    for (auto method : schema.getMethods())
      calls.insert(std::string(schema.getShortDisplayName().cStr()) + "." +
                   method.getProto().getName().cStr());
  };
  (add(capnp::Schema::from<Interfaces>()), ...);
  return calls;
}

std::string requestOf(const Route& route) {
  std::string path(route.path);
  if (const std::size_t star = path.find('*'); star != std::string::npos) path.replace(star, 1, "NAME");
  return std::string(kj::str(route.http).cStr()) + " " + path;
}

TEST(HttpRoutes, EveryCallOfTheSchemaHasOneOrIsLeftOutWithAReason) {
  std::set<std::string> known;
  for (const Route& route : routes()) known.insert(nameOf(route.subject) + "." + std::string(route.call));
  for (const LeftOut& out : leftOut()) {
    EXPECT_TRUE(known.insert(std::string(out.call)).second) << out.call << " has a route as well";
    EXPECT_FALSE(out.why.empty()) << out.call;
  }
  EXPECT_EQ(
      known,
      (callsOf<rpc::Coordinator, rpc::Restore, rpc::Listener, rpc::Prefault, rpc::RecordedWorkingSet>()));
}

TEST(HttpRoutes, ParametersAreThoseOfTheSchema) {
  for (const Route& route : routes()) {
    if (route.subject != Route::Subject::coordinator) continue;
    const auto method = capnp::Schema::from<rpc::Coordinator>().getMethodByName(
        kj::StringPtr(route.call.data(), route.call.size()));
    for (const std::string_view parameter : {route.named, route.body}) {
      if (!parameter.empty()) {
        EXPECT_TRUE(method.getParamType().findFieldByName(
                        kj::StringPtr(parameter.data(), parameter.size())) != nullptr)
            << route.path << " has no parameter " << parameter;
      }
    }
    EXPECT_EQ(route.path.find('*') != std::string_view::npos, !route.named.empty()) << route.path;
  }
}

TEST(HttpRoutes, NoTwoAreOne) {
  std::set<std::string> requests;
  for (const Route& route : routes())
    EXPECT_TRUE(requests.insert(requestOf(route)).second) << requestOf(route);
}

TEST(HttpRoutes, TheDocumentationHasEachAndNoOther) {
  std::ifstream file(SOURCE_DIRECTORY "/docs/http.md");
  std::set<std::string> documented, there;
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("| `GET ") || line.starts_with("| `P") || line.starts_with("| `DELETE "))
      documented.insert(line.substr(0, line.find('|', line.find('|', 2) + 1) + 1));
  for (const Route& route : routes())
    there.insert("| `" + requestOf(route) + "` | `" + nameOf(route.subject) + "." + std::string(route.call) +
                 "` |");
  EXPECT_EQ(documented, there);
}

TEST(HttpRoutes, ANameIsDecodedAndChecked) {
  const auto found = routeFor(kj::HttpMethod::GET, "/v1/restores/v%6d-1/stats");
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->name, "vm-1");
  EXPECT_EQ(found->route->call, "stats");
  for (const char* path :
       {"", "/", "v1/status", "/v1/status/", "/v1//status", "/v1/restores/", "/v1/restores/a%2fb",
        "/v1/restores/..", "/v1/restores/%0a", "/v1/restores/%zz", "/v2/status", "/v1/restores/vm/x"})
    EXPECT_FALSE(routeFor(kj::HttpMethod::GET, path).has_value()) << path;
  const auto other = routeFor(kj::HttpMethod::DELETE, "/v1/status");
  ASSERT_TRUE(other.has_value());
  EXPECT_EQ(other->route, nullptr);
}

}  // namespace
}  // namespace faultline::cli
