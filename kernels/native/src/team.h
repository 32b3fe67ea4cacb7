// A team of threads that works through one step together.
//
// Operations are written as functions that every member of the team calls: each takes its own share of
// the outputs by its number, and a barrier stands between operations that read each other's results.
// No output is ever computed by two members together, so results do not depend on the team's size.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace specfleet {

inline void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Spinning hands over in well under a microsecond, which matters with a hundred barriers in a step;
// after this many tries the core is given away, so that a busy machine is not made busier.
constexpr int kSpinsBeforeYield = 4000;

class Barrier {
 public:
  void wait(int num_members) {
    const uint32_t phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_members) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    int spins = 0;
    while (phase_.load(std::memory_order_acquire) == phase) {
      if (++spins < kSpinsBeforeYield)
        pause_briefly();
      else
        std::this_thread::yield();
    }
  }

 private:
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
};

struct Member {
  int index;
  int size;
  Barrier* barrier;

  void meet() const {
    if (size > 1) barrier->wait(size);
  }
  // This member's share of `count` items, as a half-open range.
  void share(int count, int* first, int* last) const {
    *first = static_cast<int>(static_cast<int64_t>(count) * index / size);
    *last = static_cast<int>(static_cast<int64_t>(count) * (index + 1) / size);
  }
};

class Team {
 public:
  static Team& instance() {
    // Never destroyed: waiting threads must not outlive their team at process exit.
    static Team* team = new Team();
    return *team;
  }

  // Runs `work` on `size` members, the caller being the first. One step at a time.
  void run(int size, const std::function<void(const Member&)>& work) {
    if (size <= 1) {
      work(Member{0, 1, nullptr});
      return;
    }
    std::lock_guard<std::mutex> one_step(run_mutex_);
    grow(size - 1);
    work_ = &work;
    size_ = size;
    finished_.store(0, std::memory_order_relaxed);
    {
      // The mutex makes sure that no helper misses the wake-up between its check and its sleep.
      std::lock_guard<std::mutex> lock(sleep_mutex_);
      ticket_.fetch_add(1, std::memory_order_acq_rel);
    }
    if (sleepers_.load(std::memory_order_acquire) > 0) wake_.notify_all();
    work(Member{0, size, &barrier_});
    int spins = 0;
    while (finished_.load(std::memory_order_acquire) != num_helpers_) {
      if (++spins < kSpinsBeforeYield)
        pause_briefly();
      else
        std::this_thread::yield();
    }
  }

  // After fork the helpers exist only in the parent: start again with none.
  void forget_helpers() {
    new (&run_mutex_) std::mutex();
    new (&sleep_mutex_) std::mutex();
    new (&wake_) std::condition_variable();
    new (&barrier_) Barrier();
    num_helpers_ = 0;
    sleepers_.store(0);
  }

 private:
  void grow(int num_wanted) {
    while (num_helpers_ < num_wanted) {
      const int index = ++num_helpers_;
      const uint32_t seen = ticket_.load(std::memory_order_acquire);
      std::thread([this, index, seen] { help(index, seen); }).detach();
    }
  }

  void help(int index, uint32_t seen) {
    for (;;) {
      wait_for_ticket(seen);
      ++seen;
      if (index < size_) (*work_)(Member{index, size_, &barrier_});
      finished_.fetch_add(1, std::memory_order_acq_rel);
    }
  }

  void wait_for_ticket(uint32_t seen) {
    for (int spins = 0; spins < kSpinsBeforeYield; ++spins) {
      if (ticket_.load(std::memory_order_acquire) != seen) return;
      pause_briefly();
    }
    std::unique_lock<std::mutex> lock(sleep_mutex_);
    sleepers_.fetch_add(1, std::memory_order_acq_rel);
    wake_.wait(lock, [this, seen] { return ticket_.load(std::memory_order_acquire) != seen; });
    sleepers_.fetch_sub(1, std::memory_order_acq_rel);
  }

  std::mutex run_mutex_;
  std::mutex sleep_mutex_;
  std::condition_variable wake_;
  Barrier barrier_;
  const std::function<void(const Member&)>* work_ = nullptr;
  int size_ = 0;
  int num_helpers_ = 0;
  std::atomic<int> sleepers_{0};
  alignas(64) std::atomic<uint32_t> ticket_{0};
  alignas(64) std::atomic<int> finished_{0};
};

}  // namespace specfleet
