// The Llama forward pass of one engine step: a ragged batch of prefill chunks and decode tokens in, logits out.
//
// Knows tensors by slot and layer, the paged KV cache by block number. Knows no names, no files, no scheduling and no
// sampling. Not thread-safe: one step at a time. Bad arguments throw std::invalid_argument before anything is computed.
//
// Shape legend: T tokens of the step, S sequences, R rows whose logits are wanted, D dim, F ffn_dim, V vocabulary.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "ahead.h"
#include "kernels.h"
#include "kv.h"
#include "pack.h"
#include "parts.h"
#include "products.h"
#include "threads.h"

namespace codellama {

// From this many rows on, work is handed out as threads ask for it; below, each thread keeps its part of the weights,
// and what it prefetches is its own.
constexpr int kDynamicRows = 33;

struct Shape {
    int dim, n_layers, n_heads, n_kv_heads, head_dim, ffn_dim, vocab_size;
    float norm_eps;
    double rope_theta;
    double rope_factor;  // positions are divided by it (linear scaling); 1: none
};

enum class Slot { tok_embeddings, output, wq, wk, wv, wo, w1, w2, w3, kCount };
enum class NormSlot { attention_norm, ffn_norm, norm };

// Rows before n_exact are computed alike on their own and in any company, by integer products where weights are
// quantized. The rest belong to prompts: a matrix unit, where there is one, may round them otherwise, though alike
// however a prompt is cut and whoever runs beside it. They come last.
struct Step {
    const int32_t* tokens_T;
    const int32_t* starts_S1;
    const int32_t* past_S;
    const int32_t* blocks_SB;
    const int32_t* rows_R;
    int n_tokens, n_sequences, table_width, n_rows;
    int n_exact;  // where the first prompt begins
};

class Model {
   public:
    Model(const Shape& shape, int n_threads, const Kernels* kernels);

    // Takes note of a matrix: its bytes in the file must stay until `pack`. tok_embeddings serves as the head when
    // output is not set.
    void add_matrix(Slot slot, int layer, int ggml_type, int rows, int columns, const uint8_t* source, size_t bytes);
    // Packs those noted since the last time, on all threads: all their tiles are one piece of work, so that a thread
    // that another program keeps from running holds nobody up. Returns the place, among them, of one that holds NaN or
    // Inf, or -1.
    int pack();
    void set_norm(NormSlot slot, int layer, const float* weight, int n);
    void set_rope_frequency_factors(const float* factors, int n);
    // Throws unless every tensor is there in its shape; steps are refused until it has been called.
    void check_complete();

    // Room for n_blocks blocks of 16 tokens in every layer, kept as `type`; forgets what was cached.
    void allocate_cache(int n_blocks, KvType type);
    void copy_block(int source, int target);
    // A block's keys and values in every layer as bytes, to be kept outside and put back.
    size_t block_bytes() const;
    void read_block(int block, uint8_t* out);
    void write_block(int block, const uint8_t* in);

    // logits_RV or hidden_RD may be null; hidden is the normalised last state.
    void step(const Step& step, float* logits_RV, float* hidden_RD);

    const Shape& shape() const { return shape_; }
    const Kernels& kernels() const { return *kernels_; }
    int n_blocks() const { return n_blocks_; }
    int n_threads() const { return pool_.size(); }
    size_t weight_bytes() const;
    size_t cache_bytes() const { return cache_.size(); }
    KvType kv_type() const { return kv_.type; }

   private:
    struct Layer {
        Matrix wq, wk, wv, wo, w1, w2, w3;
        std::vector<float> attention_norm, ffn_norm;
    };
    struct Product {  // out[t][row] (+)= weight · x
        const Matrix* weight;
        float* out;
        ptrdiff_t out_stride;
        bool accumulate;
        const Matrix* gate_up = nullptr;  // out = silu(weight · x) · (gate_up · x)
        uint16_t* tiles = nullptr;        // where prompt rows of a product with gate_up go
        XBlock* blocks = nullptr;         // where rows go quantized, not as floats: of products in_pairs
        ptrdiff_t block_stride = 0;

        bool floats() const { return is_float(*weight) || (gate_up != nullptr && is_float(*gate_up)); }
        // Some sets have panels for one kind only: a product of both kinds does without.
        int rows_of_call(const Kernels& kernels, int n_rows) const {
            const bool mixed = gate_up != nullptr && is_float(*weight) != is_float(*gate_up);
            return mixed ? std::min(n_rows, kernels.max_float_rows)
                         : codellama::rows_of_call(kernels, floats(), n_rows);
        }
        int rows_again(const Kernels& kernels) const {
            const int n = codellama::rows_again(kernels, *weight);
            return gate_up == nullptr || codellama::rows_again(kernels, *gate_up) == n ? n : 0;
        }
    };
    struct UnitScratch {
        uint16_t* weights;
        float* sums;
    };
    struct AttentionJob {
        int sequence, kv_head, token, n_tokens, chunk_begin, chunk_end;
        ptrdiff_t partial;  // offset in partials_; one slot per (token, head of the group)
        bool split;         // one chunk of several: merged in collect()
    };
    struct Segment {  // consecutive tokens of a sequence, in consecutive rows
        int sequence, first, n, past;

        bool continues(int other, int position) const { return other == sequence && position == past + n; }
    };
    struct SplitSequence {  // partials of a sequence whose chunks are separate jobs
        int token, n_tokens, position;
        ptrdiff_t partial;
    };

    Matrix& matrix(Slot slot, int layer);
    const Matrix& head() const { return output_.rows > 0 ? output_ : tok_embeddings_; }
    KvLayer layer_cache(int layer);
    void check(const Step& step) const;
    void prepare(const Step& step);
    void reserve(int n_tokens);
    void narrow(const Step& step);
    void plan(int n_rows, int n_exact);
    void plan_attention();

    // Work of one phase, handed out unit by unit. Threads pass the same sequence of phases.
    struct Progress {
        int thread;
        int phase;    // next unused counter
        Ahead ahead;  // of the product after this phase
    };
    // A phase's counters, one for each part of its rows.
    std::atomic<int>* next_counters(Progress& at) { return &counters_[static_cast<size_t>(at.phase++ * n_parts_)]; }

    // All threads of the step; those that wait fetch what they read next.
    void meet(Progress& at) {
        pool_.barrier([&at] { return at.ahead.fetch(); });
    }
    // Notes the thread's own part of products of n_rows exact rows to come, read one after the other, or side by side.
    void look_ahead(Progress& at, std::initializer_list<const Matrix*> weights, bool side_by_side, int n_rows) const;

    // Each is called by every thread of the pool; a barrier stands between any two.
    void run_thread(int thread, const Step& step, float* logits_RV, float* hidden_RD);
    void run_layer(Progress& at, int layer, const Step& step);
    void run_head(Progress& at, const Step& step, float* logits_RV, float* hidden_RD);
    void embed(Range rows, const Step& step);
    void compute_rope(Range rows);
    void normalise(int thread, const int32_t* rows_R, const Rows& exact, const Rows& prompts,
                   const std::vector<float>& weight);
    // Exact rows to int8, prompts to tiles of the matrix unit.
    void quantize_rows(int thread, const float* x, ptrdiff_t stride, int columns, const Rows& exact,
                       const Rows& prompts, uint16_t* tiles);

    // Exact rows: exact.cpp.
    bool in_pairs(const Product& product, int n_rows) const;
    void multiply_exact(Progress& at, const Product* products, int n_products, const Rows& rows, const Activations& x);
    void multiply_range(const Product& product, Range tiles, Range rows, const Activations& x) const;
    void multiply_rows(const Product& product, Tiles tiles, Range rows, int most, const Activations& x) const;
    void multiply_part(const Product& product, Tiles tiles, Range rows, const Activations& x) const;
    void multiply_pairs(const Product& product, Range tiles, Range rows, const Activations& x) const;
    void finish_sums(const Product& product, Tiles tiles, Range rows, float* sums, const float* up) const;

    // Prompt rows on a matrix unit: prompt.cpp.
    static int fewest_prompt_rows(int columns);
    bool on_unit(const Matrix& weight) const;
    static size_t unit_tile_bytes(int n_rows, int columns);
    static size_t unit_scratch_bytes(int n_rows);
    UnitScratch unit_scratch(int thread);
    int unit_group(const Matrix& weight, int n_rows) const;
    void pack_prompt_row(const float* x, int columns, int row, uint16_t* tiles) const;
    void multiply_prompts(Progress& at, const Product* products, int n_products, const Rows& rows, const uint16_t* x);
    void multiply_prompt_part(std::atomic<int>& next, int thread, const Product* products, int n_products, Range rows,
                              const uint16_t* x);
    void sum_pairs(const Matrix& weight, Range pairs, int m_tiles, const uint16_t* x, UnitScratch& scratch,
                   float* sums) const;
    void finish_pairs(const Product& product, Range pairs, Range rows, const float* sums, const float* up) const;

    // visit(a's part, b's part, bytes) of each layer and head, keys before values.
    template <class Visit>
    void visit_blocks(int a, int b, const Visit& visit);
    void rotate_and_cache(int thread, int layer, const Step& step);
    void rotate_rows(Range rows, int layer, const Step& step);
    AttendNext after(int taken, const Step& step) const;
    void attend(Progress& at, int layer, const Step& step);
    void collect(int thread);

    Shape shape_;
    const Kernels* kernels_;
    ThreadPool pool_;
    struct Noted {
        Slot slot;
        int layer;
        Matrix matrix;
        const uint8_t* source;
    };
    Arena arena_;  // of the matrices
    std::vector<Noted> noted_;
    Matrix tok_embeddings_, output_;
    std::vector<Layer> layers_;
    std::vector<float> norm_;
    std::vector<double> inverse_frequency_;

    Buffer cache_;
    bool complete_ = false;
    bool prompts_on_unit_ = false;    // there is a matrix unit, and it takes every matrix of every layer
    bool attention_on_unit_ = false;  // there is one, and no matrix is finer than its numbers
    int n_blocks_ = 0;
    KvLayer kv_;  // the layout; layer_cache() adds a layer's memory

    // Scratch of a step, grown to the largest seen.
    int capacity_ = 0;
    ptrdiff_t x_blocks_ = 0;
    std::vector<float> x_TD_, norm_TD_, q_T_, k_T_, v_T_, att_T_, ffn_TF_, cos_T_, sin_T_, partials_;
    Buffer quantized_, ffn_blocks_;
    Rows exact_, prompts_;  // rows of the step whose products do not run on the matrix unit, and those that do
    int unit_attends_ = 0;  // from this row on the matrix unit attends
    Buffer x_tiles_, ffn_tiles_;
    std::vector<Buffer> thread_scratch_, unit_scratch_;
    int n_parts_ = 1;  // of a step, the most of either
    std::vector<int32_t> sequence_T_, position_T_;
    std::vector<Segment> segments_;
    std::vector<int32_t> kept_, wanted_R_;  // rows whose logits are wanted, in order; where each of them is
    bool narrows_ = false;                  // the last layer goes on with those only
    std::vector<AttentionJob> jobs_;
    std::vector<SplitSequence> splits_;
    std::unique_ptr<std::atomic<int>[]> counters_;  // of phases that hand out work as threads ask for it
};

}  // namespace codellama
