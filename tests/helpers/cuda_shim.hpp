// A stand-in for the parts of CUDA that the kernels use, so that a C++ compiler takes their source and a CPU runs it.
//
// Blocks run one after the other. The threads of a block are coroutines that take turns: one runs until it meets a
// barrier that others have not reached, so __syncthreads and the shuffles wait as on a GPU, and a barrier that some
// thread never reaches is an error. They take their turns forwards or backwards by chance, so that what hangs on their
// order, for want of a barrier, comes out differently. Shared memory is NaN when a block begins, and has a guard behind
// it.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#define CUDA_SHIM
#define __global__
#define __device__
#define __shared__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)

struct Dim3 { unsigned x, y, z; };
static Dim3 threadIdx, blockIdx, blockDim, gridDim;
using std::isfinite;
using std::min;

static inline float __uint_as_float(unsigned bits) { float f; std::memcpy(&f, &bits, 4); return f; }
static inline unsigned __float_as_uint(float f) { unsigned bits; std::memcpy(&bits, &f, 4); return bits; }

static inline unsigned short bfloat16_bits(float value) {
    unsigned bits = __float_as_uint(value);
    return value != value ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

namespace shim {

static std::string fault;  // what a thread did wrong, other than at a barrier

}

// Compiled with -fsanitize=alignment, code comes here that reads or writes something where its type may not begin. x86
// lets that pass, a GPU does not.
extern "C" void __ubsan_handle_type_mismatch_v1(void*, uintptr_t) {
    shim::fault = "reads or writes at an address that is not aligned";
}

namespace shim {

const size_t STACK = 1 << 16, GUARD = 4096, MOST_SHARED = 1 << 18;

struct Barrier { unsigned wanted = 0, arrived = 0, generation = 0; };
struct Copy { void* to; const void* from; int size, bytes, group; };  // `bytes` of them, then zeros
struct Thread {
    ucontext_t context;
    jmp_buf place;  // where it waits; jumps are much faster than ucontext's switches, which call the system
    std::vector<char> stack;
    bool started, done;
    std::vector<Copy> copies;  // begun, not yet waited for
    int groups;
};

static jmp_buf scheduler;
static std::vector<Thread> threads;
static unsigned current;
static bool progress;
static std::minstd_rand chance;  // the same in each run
static std::function<void()> body;
static Barrier block_barrier;
static std::vector<Barrier> warp_barriers;
static std::vector<uint64_t> lanes;  // what each thread brings to a shuffle

static void wait_at(Barrier& barrier) {
    unsigned generation = barrier.generation;
    if (++barrier.arrived == barrier.wanted) {
        barrier.arrived = 0;
        barrier.generation++;
        progress = true;
        return;
    }
    while (barrier.generation == generation) {
        if (!_setjmp(threads[current].place)) _longjmp(scheduler, 1);
    }
}

static void run_thread() {
    body();
    threads[current].done = true;
    progress = true;
    _longjmp(scheduler, 1);
}

// Lets the current thread run until it waits or is done.
static void resume() {
    Thread& thread = threads[current];
    if (_setjmp(scheduler)) return;
    if (thread.started) _longjmp(thread.place, 1);
    thread.started = true;
    setcontext(&thread.context);
}

static bool run_block(Dim3 block) {
    unsigned count = block.x * block.y * block.z;
    if (threads.size() < count) threads.resize(count);
    block_barrier = {count, 0, 0};
    warp_barriers.assign((count + 31) / 32, Barrier());
    lanes.assign((count + 31) / 32 * 32, 0);
    for (unsigned i = 0; i < count; i++) {
        Thread& thread = threads[i];
        warp_barriers[i / 32].wanted++;
        thread.stack.resize(STACK);
        thread.started = thread.done = false;
        thread.copies.clear();
        thread.groups = 0;
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = STACK;
        thread.context.uc_link = nullptr;  // it jumps to the scheduler at its end
        makecontext(&thread.context, run_thread, 0);
    }
    for (unsigned left = count; left > 0;) {
        progress = false;
        left = 0;
        bool backwards = chance() >> 16 & 1;
        for (unsigned turn = 0; turn < count; turn++) {
            current = backwards ? count - 1 - turn : turn;
            if (threads[current].done) continue;
            left++;
            threadIdx = {current % block.x, current / block.x % block.y, current / block.x / block.y};
            resume();
        }
        if (left > 0 && !progress) return false;
    }
    return true;
}

// How a parameter or an argument is described: 1000 for a pointer, 100 for floating point, and the bytes of the number.
template <class T> int kind() {
    using Number = std::remove_pointer_t<T>;
    return 1000 * std::is_pointer_v<T> + 100 * std::is_floating_point_v<Number> + (int)sizeof(Number);
}
const int NO_ARRAY = -1;

template <class... Parameters, size_t... I>
std::string launch(
    void (*kernel)(Parameters...), std::index_sequence<I...>, const unsigned* size, size_t shared_bytes, char* shared,
    void** arguments, const int* kinds, int count
) {
    if (count != (int)sizeof...(Parameters)) return "takes " + std::to_string(sizeof...(Parameters)) + " arguments";
    const int wanted[] = {kind<Parameters>()...};
    for (int i = 0; i < count; i++) {
        if (kinds[i] == wanted[i] || (kinds[i] == NO_ARRAY && wanted[i] > 1000)) continue;
        return "argument " + std::to_string(i) + " is of another type";
    }
    if (shared_bytes > MOST_SHARED) return "asks for more shared memory than there is";
    fault.clear();
    blockDim = {size[3], size[4], size[5]};
    gridDim = {size[0], size[1], size[2]};
    if (blockDim.x * blockDim.y * blockDim.z > 1024) return "asks for more than 1024 threads in a block";
    body = [&] { kernel(*(std::remove_const_t<Parameters>*)arguments[I]...); };
    for (unsigned z = 0; z < gridDim.z; z++) {
        for (unsigned y = 0; y < gridDim.y; y++) {
            for (unsigned x = 0; x < gridDim.x; x++) {
                std::memset(shared, 0xff, shared_bytes + GUARD);
                blockIdx = {x, y, z};
                if (!run_block(blockDim)) return "has a barrier that not all threads reach";
                if (!fault.empty()) return fault;
                for (size_t i = 0; i < GUARD; i++) {
                    if ((unsigned char)shared[shared_bytes + i] != 0xff) return "writes behind its shared memory";
                }
            }
        }
    }
    return "";
}

}  // namespace shim

// As in CUDA, lanes are the threads of a warp and all of them must come here; `mask` is always that.
template <class T> T __shfl_xor_sync(unsigned, T value, int lane) {
    unsigned thread = shim::current;
    std::memcpy(&shim::lanes[thread], &value, sizeof value);
    shim::wait_at(shim::warp_barriers[thread / 32]);
    T result;
    std::memcpy(&result, &shim::lanes[thread ^ lane], sizeof result);
    shim::wait_at(shim::warp_barriers[thread / 32]);
    return result;
}

static inline void __syncthreads() { shim::wait_at(shim::block_barrier); }

// Blocks see each other's memory at once here; one counts at a time.
static inline void __threadfence() {}
struct alignas(16) float4 { float x, y, z, w; };
template <class T> T __ldcg(const T* address) { return *address; }
static inline unsigned atomicInc(unsigned* address, unsigned last) {
    unsigned old = *address;
    *address = old >= last ? 0 : old + 1;
    return old;
}

#include "cuda_shim_tensor_cores.hpp"

// The kernel as C sees it: returns "" or what is wrong.
#define SHIM_ENTRY(name)                                                                                     \
    template <class... P>                                                                                    \
    static std::string launch_##name(                                                                        \
        void (*kernel)(P...), const unsigned* size, size_t bytes, void** arguments, const int* kinds, int n  \
    ) {                                                                                                      \
        return shim::launch(                                                                                 \
            kernel, std::index_sequence_for<P...>(), size, bytes, (char*)shared, arguments, kinds, n         \
        );                                                                                                   \
    }                                                                                                        \
    extern "C" const char* shim_##name(                                                                      \
        const unsigned* size, size_t bytes, void** arguments, const int* kinds, int n                        \
    ) {                                                                                                      \
        static std::string message;                                                                          \
        message = launch_##name(name, size, bytes, arguments, kinds, n);                                     \
        return message.c_str();                                                                              \
    }
