// A small persistent thread pool.
#pragma once
#include <cstdint>
#include <functional>

namespace slam {

// Calls body(0) ... body(count - 1) on up to `threads` threads, the caller among them, and returns
// when all are done. Any thread may call it at any time. body must not throw.
void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& body);

}  // namespace slam
