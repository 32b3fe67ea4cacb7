// A team of threads that shares out the pieces of one operation after another.
//
// The caller walks through a step alone and hands out each operation in pieces. Pieces are claimed one by
// one, by whoever has time: on a machine where other processes want the cores too, a helper that is not
// running is not waited for. No output is ever computed by two members together, so results depend neither
// on the team's size nor on who computed what.
#pragma once
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <new>
#include <system_error>
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

// A helper spins this long for the next operation, some hundred microseconds, which bridges the gaps inside
// a step and often those between steps; then it sleeps, so that an idle engine leaves the machine alone.
constexpr int kSpinsBeforeSleep = 4000;
class Team {
 public:
  static Team& instance() {
    // Never destroyed: waiting threads must not outlive their team at process exit.
    static Team* team = new Team();
    return *team;
  }

  // work(piece) for piece 0..pieces-1, on the caller and at most size - 1 helpers.
  template <class Work>
  void each(int size, int pieces, const Work& work) {
    std::unique_lock<std::mutex> alone(users_, std::defer_lock);
    // Where another engine of this process has the helpers just now: do without them. Who needs none takes them from
    // nobody.
    if (size <= 1 || pieces <= 1 || !alone.try_lock()) {
      for (int piece = 0; piece < pieces; ++piece) work(piece);
      return;
    }
    grow(size - 1);
    call_ = [](const void* context, int piece) { (*static_cast<const Work*>(context))(piece); };
    context_ = &work;
    pieces_ = pieces;
    size_.store(size, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    const uint64_t phase = (state_.load(std::memory_order_relaxed) >> 32) + 1;
    state_.store(phase << 32 | static_cast<uint32_t>(pieces), std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard<std::mutex> lock(sleep_mutex_);
      wake_.notify_all();
    }
    while (claim_and_run()) {
    }
    int spins = 0;
    while (done_.load(std::memory_order_acquire) != pieces) {
      if (++spins < kSpinsBeforeSleep)
        pause_briefly();
      else
        std::this_thread::yield();
    }
  }

  // After fork the helpers exist only in the parent: start again with none.
  void forget_helpers() {
    new (&users_) std::mutex();
    new (&sleep_mutex_) std::mutex();
    new (&wake_) std::condition_variable();
    num_helpers_ = 0;
    sleepers_.store(0);
    state_.store(0);
  }

 private:
  // The low half of the state counts pieces that nobody has claimed, the high half numbers the operation. A
  // claim is one exchange of the whole, so it can only succeed on the operation that was looked at; and that
  // operation cannot end before the claimed piece is done, so its fields may be read after the claim.
  bool claim_and_run() {
    uint64_t seen = state_.load(std::memory_order_acquire);
    while (static_cast<uint32_t>(seen) > 0) {
      if (!state_.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel)) continue;
      call_(context_, pieces_ - static_cast<int>(static_cast<uint32_t>(seen)));
      done_.fetch_add(1, std::memory_order_acq_rel);
      return true;
    }
    return false;
  }

  bool has_work(int index) const {
    return static_cast<uint32_t>(state_.load(std::memory_order_seq_cst)) > 0 &&
           index < size_.load(std::memory_order_relaxed);
  }

  void grow(int num_wanted) {
    try {
      while (num_helpers_ < num_wanted) {
        std::thread([this, index = num_helpers_ + 1] { help(index); }).detach();
        ++num_helpers_;
      }
    } catch (const std::system_error&) {
      // The system gives no more threads: those there are, and the caller, do the work.
    }
  }

  void help(int index) {
    for (int spins = 0;;) {
      if (has_work(index) && claim_and_run()) {
        spins = 0;
      } else if (++spins < kSpinsBeforeSleep) {
        pause_briefly();
      } else {
        std::unique_lock<std::mutex> lock(sleep_mutex_);
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [this, index] { return has_work(index); });
        sleepers_.fetch_sub(1, std::memory_order_seq_cst);
        spins = 0;
      }
    }
  }

  std::mutex users_;
  std::mutex sleep_mutex_;
  std::condition_variable wake_;
  void (*call_)(const void*, int) = nullptr;
  const void* context_ = nullptr;
  int pieces_ = 0;
  int num_helpers_ = 0;
  std::atomic<int> size_{0};
  std::atomic<int> sleepers_{0};
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int> done_{0};
};

// Where the pieces of `count` items end. The first ones are large, for every piece begins with waiting for memory; the
// last ones are small, so that a late helper still finds some and nobody waits long for the last.
inline void cut(int threads, int64_t count, int64_t least, std::vector<int64_t>* ends) {
  constexpr int kSmallestOfMember = 32;
  const int64_t smallest = std::max(least, count / (static_cast<int64_t>(threads) * kSmallestOfMember));
  ends->clear();
  for (int64_t first = 0; first < count;) {
    const int64_t share = (count - first) / (2 * threads);
    first = std::min(count, first + std::max(smallest, share));
    ends->push_back(first);
  }
}

// work(first, last) over the items 0..count-1 in contiguous pieces. `cost` is roughly the number of elements
// that one item touches: what is too little to share stays with the caller.
constexpr int64_t kLeastCostOfPiece = 16384;

template <class Work>
void share_out(int threads, int64_t count, int64_t cost, const Work& work) {
  const int64_t least = std::max<int64_t>(1, kLeastCostOfPiece / std::max<int64_t>(1, cost));
  if (threads <= 1 || count <= least) {
    if (count > 0) work(0, count);
    return;
  }
  static thread_local std::vector<int64_t> store;
  cut(threads, count, least, &store);
  const int64_t* ends = store.data();  // the caller's: a helper has a store of its own
  Team::instance().each(threads, static_cast<int>(store.size()),
                        [&](int piece) { work(piece == 0 ? 0 : ends[piece - 1], ends[piece]); });
}

}  // namespace specfleet
