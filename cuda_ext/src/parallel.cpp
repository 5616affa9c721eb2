// A small persistent thread pool: jobs wait in one queue, their callers work on them too.
#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

namespace slam {
namespace {

struct Job {
  const std::function<void(int64_t)>* body;
  int64_t count;
  int helpers;  // that may still join; guarded by the pool's mutex
  std::atomic<int64_t> next{0}, finished{0};
  std::mutex mutex;
  std::condition_variable all_finished;

  void work() {
    for (int64_t k = next++; k < count; k = next++) {
      (*body)(k);
      if (++finished == count) {
        std::lock_guard<std::mutex> lock(mutex);
        all_finished.notify_all();
      }
    }
  }
  void wait() {
    std::unique_lock<std::mutex> lock(mutex);
    all_finished.wait(lock, [this] { return finished == count; });
  }
};

class Pool {
 public:
  // Never destroyed: at exit, and in a forked child, there is no safe moment to join its threads.
  static Pool& instance() {
    static Pool* pool = new Pool;
    return *pool;
  }

  void submit(const std::shared_ptr<Job>& job) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (; workers_ < job->helpers; ++workers_) std::thread([this] { serve(); }).detach();
    jobs_.push_back(job);
    available_.notify_all();
  }

  void withdraw(const std::shared_ptr<Job>& job) {
    std::lock_guard<std::mutex> lock(mutex_);
    jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), job), jobs_.end());
  }

 private:
  void serve() {
    for (;;) {
      std::shared_ptr<Job> job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        available_.wait(lock, [this] { return !jobs_.empty(); });
        job = jobs_.front();
        if (--job->helpers == 0) jobs_.pop_front();
      }
      job->work();
    }
  }

  std::mutex mutex_;
  std::condition_variable available_;
  std::deque<std::shared_ptr<Job>> jobs_;
  int workers_ = 0;
};

}  // namespace

void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& body) {
  const int helpers = int(std::min<int64_t>(threads, count)) - 1;
  if (helpers < 1) {
    for (int64_t k = 0; k < count; ++k) body(k);
    return;
  }
  const auto job = std::make_shared<Job>();
  job->body = &body;
  job->count = count;
  job->helpers = helpers;
  Pool::instance().submit(job);
  job->work();
  Pool::instance().withdraw(job);
  job->wait();
}

}  // namespace slam
