// A persistent pool that runs one function on every thread at once, and a barrier for use inside it.
//
// Waiting spins for a moment (a phase of a decode step lasts 10–100 µs, a futex wake-up as long), then sleeps, so that
// an idle engine uses no processor, and a busy machine's goes to whoever is waited for. Not re-entrant: one run at a
// time.

#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace codellama {

class ThreadPool {
   public:
    explicit ThreadPool(int n_threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return n_threads_; }
    // Calls body(0) here and body(1) … body(size − 1) on the workers; returns when all have. body must not throw.
    void run(const std::function<void(int)>& body);
    // Every thread of the current run meets here; what was written before is visible to all after. Those that wait call
    // `meanwhile` again and again, as long as it returns true: it must be short.
    template <class Meanwhile>
    void barrier(Meanwhile meanwhile) {
        unsigned phase;
        if (arrive(phase)) return;
        while (phase_.load(std::memory_order_acquire) == phase && meanwhile()) {}
        wait(phase);
    }
    void barrier() {
        barrier([] { return false; });
    }

   private:
    void work(int index);
    bool arrive(unsigned& phase);  // whether all are there
    void wait(unsigned phase);

    const int n_threads_;
    const std::function<void(int)>* body_ = nullptr;
    alignas(64) std::atomic<unsigned> job_{0};
    alignas(64) std::atomic<int> running_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<unsigned> phase_{0};
    std::atomic<bool> stop_{false};
    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<std::thread> workers_;
};

}  // namespace codellama
