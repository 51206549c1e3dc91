// The paths of the JSON door, and the calls of the control interface that they are. A table: what a call takes and answers
// follows from rpc/control.capnp.
#pragma once

#include <kj/compat/http.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace faultline::cli {

struct Route {
  // Whose call it is. All but the coordinator's are of the restore that the path names.
  enum class Subject { coordinator, restore, recordedWorkingSet };
  enum class Wait {
    no,
    yes,      // answers when something has happened: up to the time limit of the request
    there,    // the same, and the restore need not be there yet
    orEmpty,  // where nothing has happened in time, the answer is an empty one
  };

  kj::HttpMethod http;
  std::string_view path;  // "*": a name
  Subject subject;
  std::string_view call;   // of the schema
  std::string_view about;  // purpose, for people
  Wait wait = Wait::no;
  std::string_view named = "";  // the parameter that gets the name in the path, of the coordinator's calls
  std::string_view body =
      "";             // the parameter that the whole body is; empty: the body has the parameters by name
  bool ends = false;  // the service, once it is done: the answer may be that no server is there any more
};

// Every route there is.
const std::vector<Route>& routes();

// Calls of the schema that have no route, and what stands in for each: "Interface.method".
struct LeftOut {
  std::string_view call, why;
};
const std::vector<LeftOut>& leftOut();

struct Found {
  const Route* route = nullptr;  // null: the path has another method
  std::string name;              // that of the path
};
// Empty where there is no such path. The path is percent-encoded, without its query; a name that is not one of a restore
// or listener is no path.
std::optional<Found> routeFor(kj::HttpMethod method, const std::string& path);

}  // namespace faultline::cli
