"""Best-of-n imitation as a loop of your own: sample, keep the best response, learn it, push.

    python docs/examples/best_of_n.py [MODEL]

The reward is the share of the digit 7 in a response, so that any model has something to learn.
"""

import asyncio
import sys

from rlpost.api import LikelihoodObjective, SamplingConfig, TrainerConfig, open_parts

QUESTIONS = [f"Write something about the number {n}." for n in range(8)]
STEPS = 3


def reward(prompt, text: str) -> float:
    return text.count("7") / max(1, len(text))


async def main(model: str) -> list[float]:
    trainer = TrainerConfig(steps=STEPS, lr=1e-3)
    sampling, means = SamplingConfig(max_tokens=24), []
    async with open_parts(model, trainer=trainer) as parts:
        prompts = parts.prompts(QUESTIONS)
        for step in range(1, STEPS + 1):
            groups = await parts.sample(
                prompts, num_samples=8, sampling=sampling, reward=reward, seed=step
            )
            best = [max(group.episodes, key=lambda e: e.reward) for group in groups]
            metrics = await parts.policy.forward_backward(parts.pack(best), LikelihoodObjective())
            await parts.policy.optim_step(step)
            await parts.bus.publish()
            means.append(sum(episode.reward for episode in best) / len(best))
            print(f"step {step}: best reward {means[-1]:.3f}, nll {metrics['actor/nll']:.3f}")
    return means


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"))
