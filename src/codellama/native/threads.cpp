#include "threads.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace codellama {
namespace {

void relax() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// About 100 µs of pauses on a 3 GHz core: longer than any phase of a small model's step, shorter than a scheduler tick.
// Who has waited longer shares its processor with others, and sleeps: one that yields is put behind them all (beside
// three busy processes on two processors, Linux 6.18, SmolLM2 answers 47 tokens a second so, and 64 asleep).
constexpr int kSpins = 4000;
constexpr int kYields = 50;

// Until `value` is no longer `old`; acquires.
template <class T>
void await_change(const std::atomic<T>& value, T old) {
    for (int spin = 0; spin < kSpins; ++spin) {
        if (value.load(std::memory_order_acquire) != old) return;
        relax();
    }
    value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int n_threads) : n_threads_(n_threads < 1 ? 1 : n_threads) {
    for (int i = 1; i < n_threads_; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
    {
        const std::lock_guard lock(mutex_);
        stop_.store(true);
        job_.fetch_add(1);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(const std::function<void(int)>& body) {
    if (n_threads_ == 1) return body(0);
    body_ = &body;
    running_.store(n_threads_ - 1, std::memory_order_relaxed);
    {
        const std::lock_guard lock(mutex_);  // so that a worker about to park sees the job or the notification
        job_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    body(0);
    for (int left; (left = running_.load(std::memory_order_acquire)) != 0;) await_change(running_, left);
}

void ThreadPool::work(int index) {
    unsigned seen = 0;
    for (;;) {
        int spin = 0;
        while (job_.load(std::memory_order_acquire) == seen) {
            if (++spin < kSpins) relax();
            else if (spin < kSpins + kYields) std::this_thread::yield();
            else {
                std::unique_lock lock(mutex_);
                wake_.wait(lock, [&] { return job_.load(std::memory_order_acquire) != seen; });
            }
        }
        ++seen;
        if (stop_.load()) return;
        (*body_)(index);
        running_.fetch_sub(1, std::memory_order_release);
        running_.notify_all();
    }
}

bool ThreadPool::arrive(unsigned& phase) {
    if (n_threads_ == 1) return true;
    phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) != n_threads_ - 1) return false;
    arrived_.store(0, std::memory_order_relaxed);
    phase_.fetch_add(1, std::memory_order_release);
    phase_.notify_all();  // a look at a counter where nobody sleeps
    return true;
}

void ThreadPool::wait(unsigned phase) { await_change(phase_, phase); }

}  // namespace codellama
